"""What an engine is: it makes one stream of bytes of a running server, and a data directory of such a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from manager.gtid import GtidSet
from manager.mysql.connection import Connection
from manager.settings import Settings
from manager.snapshot import archive
from manager.snapshot.manifest import Manifest
from manager.snapshot.progress import Report


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a copy holds: all of `gtid`, nothing beyond `gtid_after`; `unpacked` bytes in a data directory."""

    gtid: GtidSet
    gtid_after: GtidSet
    unpacked: int


class Copy(ABC):
    """A copy of a server that is being made. `expected` is about the number of bytes that `chunks` yields."""

    expected: int

    @abstractmethod
    def chunks(self) -> Iterator[bytes]:
        """Yield the copy, uncompressed; SnapshotError at the end unless every program behind it has ended well."""

    @abstractmethod
    def held(self) -> Held:
        """Return what is in it; to be asked when `chunks` has ended."""


class Packed(Copy):
    """A copy that is complete in a directory, whose content is `size` bytes; packed from there."""

    def __init__(self, directory: Path, held: Held, size: int) -> None:
        self.expected = size
        self._directory = directory
        self._held = held

    def chunks(self) -> Iterator[bytes]:
        return archive.pack(self._directory)

    def held(self) -> Held:
        return self._held


class Engine(ABC):
    """One way to copy a server. `name` stands in the manifest: only the same engine restores it.

    `logical`: what is restored is a database of the server there; else one of the server that was copied.
    """

    name: ClassVar[str]
    logical: ClassVar[bool] = False

    @abstractmethod
    def lacks(self, settings: Settings, conn: Connection) -> str:
        """Return why this engine cannot copy the server behind `conn`, or nothing."""

    @abstractmethod
    def copy(
        self, settings: Settings, conn: Connection, report: Report | None
    ) -> AbstractContextManager[Copy]:
        """Begin a copy; the end of the block removes what it needed on the way. What `report` raises ends it.

        What a killed run left in this node's scratch directory is removed first. SnapshotError if the server, the
        disk or a program cannot give one.
        """

    @abstractmethod
    def restore(
        self,
        settings: Settings,
        manifest: Manifest,
        chunks: Iterator[bytes],
        datadir: Path,
        report: Report | None,
    ) -> None:
        """Make a data directory of `chunks`, durably, in `datadir`, which is empty but for hidden files.

        At its first start mysqld has the transactions of the manifest in gtid_executed. `chunks` is read to its
        end, where it raises if it was not what was stored: nothing is to be made of it before. SnapshotDamaged if it
        is no copy, SnapshotError if the disk or a program fails.
        """
