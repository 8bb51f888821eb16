"""A directory as one stream of bytes and back: tar, compressed with zstd, in constant memory."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import zstandard

from manager.errors import SnapshotDamaged, SnapshotError
from manager.storage.base import sync_directory

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LEVEL = 3
BLOCK = 1 << 20
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


class Digest:
    """Size and sha256 of a stream that passes through."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def follow(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass `chunks` on unchanged."""
        for chunk in chunks:
            self._sha256.update(chunk)
            self.size += len(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        """The digest of all that has passed, in hexadecimal."""
        return self._sha256.hexdigest()


def compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The zstd form of `chunks`, with zstd's own checksum."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
    for chunk in chunks:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def pack(directory: Path) -> Iterator[bytes]:
    """The tar stream of all files and directories below `directory`; no owner, no links.

    SnapshotError if a file cannot be read, changes its size meanwhile, or is neither file nor directory.
    """
    try:
        for path, entry in _walk(directory):
            info = tarfile.TarInfo(path.relative_to(directory).as_posix())
            info.mtime = int(entry.st_mtime)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise SnapshotError(f"{path} is neither a file nor a directory; the snapshot cannot hold it")
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, DIRECTORY_MODE
                yield info.tobuf(tarfile.PAX_FORMAT)
            else:
                info.size, info.mode = entry.st_size, FILE_MODE
                yield info.tobuf(tarfile.PAX_FORMAT)
                yield from _content(path, info.size)
        yield bytes(2 * tarfile.BLOCKSIZE)
    except OSError as error:
        raise SnapshotError(
            f"cannot read the copy: {error.strerror} ({error.filename or directory})"
        ) from None


def unpack(chunks: Iterable[bytes], target: Path) -> int:
    """Write the files of a compressed tar stream below `target`, durably; returns their size in bytes.

    Files get mode 0640, directories 0750, both the owner of the process. Nothing existing is overwritten.
    SnapshotDamaged if the stream is damaged, ends early, or names anything outside `target`, a link, a device,
    or a hidden file at the top. Reads the stream to its end.
    """
    source = io.BufferedReader(_Source(iter(chunks)), BLOCK)
    written = 0
    try:
        decompressor = zstandard.ZstdDecompressor()
        with (
            decompressor.stream_reader(source, read_size=BLOCK, closefd=False) as reader,
            tarfile.open(fileobj=reader, mode="r|", bufsize=BLOCK) as tar,
        ):
            directories = {target}
            while (member := tar.next()) is not None:
                path = target / check_member(member)
                if member.isdir():
                    path.mkdir(mode=DIRECTORY_MODE)
                    directories |= {path, path.parent}
                else:
                    _write(tar, member, path)
                    written += member.size
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
            for directory in directories:
                sync_directory(directory)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise SnapshotDamaged(f"the archive is damaged or ends early: {error}") from None
    except OSError as error:
        raise SnapshotError(f"cannot write {error.filename or target}: {error.strerror}") from None
    while source.read(BLOCK):
        pass
    return written


def check_member(member: tarfile.TarInfo) -> PurePosixPath:
    """The relative path at which a member may be written; SnapshotDamaged if there is none."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        raise SnapshotDamaged(f"the archive holds {member.name!r}, which is neither a file nor a directory")
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0].startswith("."):
        raise SnapshotDamaged(
            f"the archive holds {member.name!r}, which is no name for a file of the database"
        )
    return path


def content_size(directory: Path) -> int:
    """The sum of the sizes of all files below `directory`, in bytes."""
    return sum(entry.st_size for path, entry in _walk(directory) if path.is_file())


def tree_size(directory: Path) -> int:
    """Bytes on disk below `directory`; files that come and go are no error."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _walk(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(directory.iterdir()):
        yield path, path.lstat()
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(BLOCK):
            left -= len(chunk)
            yield chunk
    if left != 0:
        raise SnapshotError(f"{path} changed while it was read")
    if size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise SnapshotDamaged(f"the archive holds no content for {member.name!r}")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
        while chunk := content.read(BLOCK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


class _Source(io.RawIOBase):
    """An iterator of bytes as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        room = memoryview(buffer).cast("B")
        count = min(len(room), len(self._rest))
        room[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
