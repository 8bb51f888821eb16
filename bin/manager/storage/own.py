"""A driver of one's own that knows only `get_backup` and `put_backup`: everything goes over the disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from manager.errors import CannotList, ObjectMissing, StoreError
from manager.settings import Settings
from manager.storage.base import CHUNK, Objects, Store, StoredObject, check_name, write_file


class Driver(Protocol):
    """The public contract (SPEC 5)."""

    def get_backup(self, backup_id: str) -> object:
        """Retrieve to `{SCRATCH_DIR}/{backup_id}`."""

    def put_backup(self, backup_id: str, infile: str) -> object:
        """Store the file; return its path in the store."""


class OwnDriver(Store):
    """Makes a Store of a two-verb driver. Whatever the driver raises becomes a StoreError."""

    folders = False

    def __init__(self, settings: Settings, driver: Driver, name: str) -> None:
        super().__init__(settings)
        self._driver = driver
        self._name = name
        self._spool = self.settings.scratch_dir / f".spool-{self.settings.node_name}"

    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        infile = self._spool / check_name(name)
        try:
            try:
                write_file(infile, chunks)
            except OSError as error:
                raise StoreError(f"cannot write {infile}: {error.strerror}; check SCRATCH_DIR") from None
            with self._faults(f"put_backup({name!r})"):
                path = self._driver.put_backup(name, str(infile))
            return str(path) if path else name
        finally:
            shutil.rmtree(self._spool, ignore_errors=True)

    def get_stream(self, name: str) -> Iterator[bytes]:
        target = self.settings.scratch_dir / check_name(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # an older copy must not pass for what the store holds
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror}; check SCRATCH_DIR") from None
        with self._faults(f"get_backup({name!r})"):
            self._driver.get_backup(name)
        if not target.is_file():
            raise ObjectMissing(f"BACKUP_DRIVER={self._name}: get_backup({name!r}) left no file at {target}")
        try:
            with open(target, "rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise StoreError(f"cannot read {target}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                target.unlink()

    def stat(self, name: str) -> StoredObject:
        raise CannotList(f"BACKUP_DRIVER={self._name} cannot tell which objects there are")

    def list(self, prefix: str) -> Objects:
        raise CannotList(f"BACKUP_DRIVER={self._name} cannot list what it stores")

    def delete(self, name: str) -> None:
        raise CannotList(f"BACKUP_DRIVER={self._name} cannot delete {name}")

    def clear_leftovers(self, ours: Callable[[str], bool]) -> int:
        if not self._spool.exists():
            return 0
        shutil.rmtree(self._spool, ignore_errors=True)
        return 1

    @contextlib.contextmanager
    def _faults(self, call: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # somebody else's code: anything it raises means that the store failed
            text = " ".join(str(error).split())[:300]
            raise StoreError(f"BACKUP_DRIVER={self._name}: {call}: {type(error).__name__}: {text}") from None
