"""A directory as one stream of bytes and back: tar, compressed with zstd, in constant memory."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import zstandard

from manager.errors import SnapshotDamaged, SnapshotError
from manager.storage.base import Written, sync_directory

LEVEL = 3
THREADS = 2  # a third less time than with one (measured)
JOB = 2 << 20  # bytes that a thread compresses at a time: 16 MB of memory in all, by default 100
BLOCK = 1 << 20
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640


def compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The zstd form of `chunks`, with zstd's own checksum."""
    how = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, write_checksum=True, threads=THREADS, job_size=JOB
    )
    compressor = zstandard.ZstdCompressor(compression_params=how).compressobj()
    for chunk in chunks:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Undo `compress`, at most BLOCK bytes at a time, however small they were compressed; reads `chunks` to their end.

    SnapshotDamaged if the stream is damaged. That it ends early shows in what it holds.
    """
    source = _Compressed(chunks)
    try:
        with zstandard.ZstdDecompressor().stream_reader(source, read_size=BLOCK) as reader:  # type: ignore[arg-type]
            while chunk := reader.read(BLOCK):
                yield chunk
                if len(chunk) < BLOCK:
                    break  # its end; that more follows shows in the size
    except zstandard.ZstdError as error:
        raise SnapshotDamaged(f"the archive is damaged or ends early: {error}") from None
    while source.some(BLOCK):
        pass


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
    """Write the files of a tar stream below `target`, durably; returns their size in bytes.

    Files get mode 0640, directories 0750, both the owner of the process. Nothing existing is overwritten.
    SnapshotDamaged if the stream is damaged, ends early, or names anything outside `target`, a link, a device,
    or a hidden file at the top. Reads the stream to its end.
    """
    source = _Tar(chunks)
    written = 0
    try:
        with tarfile.TarFile(fileobj=source) as tar:  # type: ignore[arg-type]  # what it asks for is there
            directories = {target}
            while (member := tar.next()) is not None:
                path = target / check_member(member)
                if member.isdir():
                    path.mkdir(mode=DIRECTORY_MODE)
                    directories |= {path, path.parent}
                else:
                    _write(source, member, path)
                    written += member.size
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
            for directory in directories:
                sync_directory(directory)
            while source.some(BLOCK):
                pass
    except (tarfile.TarError, EOFError) as error:
        raise SnapshotDamaged(f"the archive is damaged or ends early: {error}") from None
    except OSError as error:
        raise SnapshotError(f"cannot write {error.filename or target}: {error.strerror}") from None
    return written


def check_member(member: tarfile.TarInfo) -> PurePosixPath:
    """The relative path at which a member may be written; SnapshotDamaged if there is none."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or member.issparse():
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


def _write(source: _Tar, member: tarfile.TarInfo, path: Path) -> None:
    left = member.size
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
        written = Written(file)
        while left > 0 and (piece := source.some(left)):
            written.write(piece)
            left -= len(piece)
        written.finish()
    source.read(-member.size % tarfile.BLOCKSIZE)


class Chunks:
    """An iterator of chunks as a file to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._taken = 0

    def some(self, size: int) -> memoryview:
        """The next bytes without a copy, at most `size` of them; none only at the end."""
        while not self._rest:  # an empty chunk is no end
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest = memoryview(chunk)
        taken, self._rest = self._rest[:size], self._rest[size:]
        self._taken += len(taken)
        return taken

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        found = bytearray()
        while len(found) < size and (piece := self.some(size - len(found))):
            found += piece
        return bytes(found)


class _Compressed:
    """What zstandard reads from, without a copy."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.some = Chunks(chunks).some

    def read(self, size: int) -> memoryview:
        return self.some(size)

    def close(self) -> None:
        """The chunks are their producer's to close."""


class _Tar(Chunks):
    """What tarfile reads headers from."""

    def tell(self) -> int:
        return self._taken

    def seek(self, position: int) -> None:
        """Asked for only where a content is shorter than its header says, or its size cannot be."""
        raise tarfile.ReadError(f"byte {position} is where the next header belongs, not {self._taken}")
