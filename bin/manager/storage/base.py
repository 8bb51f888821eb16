"""What every snapshot store can do. The contract for one's own drivers is in docs/storage-driver.md."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from manager.errors import StoreError
from manager.settings import Settings, load

CHUNK = 1 << 20  # bytes read at once; what limits a driver's memory is said in the driver
SPAN = 8 << 20  # bytes of a file that the disk gets at once
SMALL = 1 << 20  # `get_bytes` refuses anything larger: it is for manifests
_PART = r"[A-Za-z0-9_+=@%,:~-][A-Za-z0-9._+=@%,:~-]*"
_NAME = re.compile(f"{_PART}(/{_PART})*")


@dataclass(frozen=True)
class StoredObject:
    """One complete object: its name, its size in bytes, and when it was written (epoch seconds)."""

    name: str
    size: int
    mtime: float


Objects = list[StoredObject]


def check_name(name: str) -> str:
    """Return `name` if every store can hold it, else raise StoreError.

    Allowed are ASCII letters, digits, `._+=@%,:~-`, and `/` between parts; no part begins with a dot, so
    neither `..` nor a driver's own hidden files can be named.
    """
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise StoreError(f"{name[:210]!r} cannot be the name of a stored object; check BACKUP_NAME")
    return name


class Store(ABC):
    """A place for snapshots. Every method raises StoreError, in one line, when the store fails.

    An object appears under its name whole or not at all, whatever kills the process that writes it. Where `folders`
    is false, names with a `/` may be too much for it.
    """

    folders = True

    def __init__(self, settings: Settings | None = None) -> None:
        """Without `settings` they are read from the environment, so that a driver can be made by its name."""
        self.settings = settings if settings is not None else load(os.environ)

    @abstractmethod
    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        """Store what `chunks` yields and return the object's path (`bucket/name` or the like).

        If `chunks` raises, its exception passes through and nothing is visible in the store. `at_most` is
        the largest size to expect, in bytes, 0 if unknown.
        """

    @abstractmethod
    def get_stream(self, name: str) -> Iterator[bytes]:
        """Yield the object's content; ObjectMissing, at the first step, if there is none."""

    @abstractmethod
    def stat(self, name: str) -> StoredObject:
        """Return the object's size and time. ObjectMissing if there is none; CannotList if unknowable."""

    @abstractmethod
    def list(self, prefix: str) -> Objects:
        """Return the complete objects whose names begin with `prefix`, by name; CannotList if unknowable."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is no error. CannotList if the driver has no such verb."""

    @abstractmethod
    def clear_leftovers(self, ours: Callable[[str], bool]) -> int:
        """Remove what killed writers of objects named by `ours` left unfinished; returns how many.

        To be called by the holder of the snapshot lock, so that no writer of such a name is at work.
        """

    def put_bytes(self, name: str, data: bytes) -> str:
        """Store a small object; returns its path."""
        return self.put_stream(name, [data], at_most=len(data))

    def get_bytes(self, name: str) -> bytes:
        """Return a small object whole; StoreError if it is larger than 1 MiB."""
        data = bytearray()
        for chunk in self.get_stream(name):
            data += chunk
            if len(data) > SMALL:
                raise StoreError(f"{name} is larger than {SMALL} bytes, which is no manifest")
        return bytes(data)

    def put_backup(self, backup_id: str, infile: str | os.PathLike[str]) -> str:
        """Store the file `infile` as `backup_id`; returns its path in the store."""
        try:
            with open(infile, "rb") as source:
                size = os.fstat(source.fileno()).st_size
                return self.put_stream(backup_id, iter(lambda: source.read(CHUNK), b""), at_most=size)
        except OSError as error:
            raise StoreError(f"cannot read {infile}: {error.strerror}") from None

    def get_backup(self, backup_id: str) -> str:
        """Retrieve `backup_id` to `{SCRATCH_DIR}/{backup_id}`; returns that path."""
        target = self.settings.scratch_dir / check_name(backup_id)
        try:
            write_file(target, self.get_stream(backup_id))
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror}; check SCRATCH_DIR") from None
        return str(target)


class Written:
    """An open file that is written from its beginning, and then made durable.

    The disk begins with each SPAN at once, so that not all of it has to wait for the end (measured: a restore of
    1 GB took a third less time).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`; OSError as it comes."""
        rest = memoryview(data)
        while rest:
            count = self._file.write(rest)
            self._size, rest = self._size + count, rest[count:]
        if self._size - self._begun >= SPAN:
            self._file.flush()
            # Linux begins to write what is not written yet, and does not wait for it. Nobody reads it soon.
            span = (self._begun, self._size - self._begun)
            with contextlib.suppress(OSError):  # no more than advice
                os.posix_fadvise(self._file.fileno(), *span, os.POSIX_FADV_DONTNEED)
            self._begun = self._size

    def finish(self) -> None:
        """Return once everything is on the disk; OSError as it comes."""
        self._file.flush()
        os.fsync(self._file.fileno())


def write_file(target: Path, chunks: Iterable[bytes]) -> None:
    """Write a file (mode 0600) that appears under its name only when it is whole. OSError as it comes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            written = Written(file)
            for chunk in chunks:
                written.write(chunk)
            written.finish()
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(target.parent)


def sync_tree(top: Path) -> None:
    """Make everything below `top` durable, and `top` itself as a directory. OSError as it comes."""
    for directory, _, names in os.walk(top):
        for name in names:
            with open(Path(directory, name), "rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(directory))


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
