"""The `local` driver: snapshots in a directory (STORAGE_DIR), for one host or a shared file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from manager.errors import ConfigError, ObjectMissing, StoreError
from manager.settings import Settings
from manager.storage.base import CHUNK, Objects, Store, StoredObject, Written, check_name, sync_directory

INCOMING = ".incoming"  # unfinished objects; no name can begin with a dot


class LocalStore(Store):
    """Objects are files of STORAGE_DIR, mode 0600, written under a hidden name, synced, then renamed."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        if self.settings.storage_dir is None:
            raise ConfigError("BACKUP_DRIVER=local needs STORAGE_DIR, the directory that holds the snapshots")
        self._root = Path(self.settings.storage_dir)

    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        target = self._root / check_name(name)
        temporary = self._root / INCOMING / f"{quote(name, safe='')}.{secrets.token_hex(4)}"
        with self._faults(name):
            self._present()
            temporary.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Without a buffer, which would be written once more after a fault.
            with open(descriptor, "wb", buffering=0) as file:
                # Tells `clear_leftovers` that the writer lives; the kernel drops it with the process.
                fcntl.flock(file, fcntl.LOCK_EX)
                written = Written(file)
                for chunk in chunks:
                    with self._faults(name):
                        written.write(chunk)
                with self._faults(name):
                    written.finish()
            with self._faults(name):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, target)
                for directory in (target.parent, *target.parent.parents):
                    sync_directory(directory)
                    if directory == self._root:
                        break
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return str(target)

    def get_stream(self, name: str) -> Iterator[bytes]:
        with self._faults(name):
            self._present()
            file = open(self._root / check_name(name), "rb")  # noqa: SIM115 (closed just below)
        with file:
            while True:
                with self._faults(name):
                    chunk = file.read(CHUNK)
                if not chunk:
                    return
                yield chunk

    def stat(self, name: str) -> StoredObject:
        with self._faults(name):
            self._present()
            found = os.stat(self._root / check_name(name))
        return StoredObject(name, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Objects:
        objects = []
        with self._faults(prefix):
            self._present()
            for directory, below, files in os.walk(self._root, onerror=_raise):
                below[:] = [entry for entry in below if not entry.startswith(".")]
                for path in (Path(directory, entry) for entry in files if not entry.startswith(".")):
                    name = str(path.relative_to(self._root))
                    if name.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            found = path.stat()
                            objects.append(StoredObject(name, found.st_size, found.st_mtime))
        return sorted(objects, key=lambda each: each.name)

    def delete(self, name: str) -> None:
        with self._faults(name):
            self._present()
            path = self._root / check_name(name)
            path.unlink(missing_ok=True)
            sync_directory(path.parent)

    def clear_leftovers(self, ours: Callable[[str], bool]) -> int:
        removed = 0
        with self._faults(INCOMING):
            self._present()
            incoming = self._root / INCOMING
            for path in sorted(incoming.iterdir()) if incoming.is_dir() else ():
                if ours(unquote(path.name.rpartition(".")[0])) and _unlocked(path):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _present(self) -> None:
        """The directory is never made here: a missing one may be a file system that is not mounted."""
        if not self._root.is_dir():
            raise StoreError(f"STORAGE_DIR {self._root} is no directory; create it, or mount it")

    @contextlib.contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ObjectMissing(f"{name} is not in STORAGE_DIR {self._root}") from None
        except OSError as error:
            raise StoreError(
                f"STORAGE_DIR {self._root}: {error.strerror} ({error.filename or name})"
            ) from None


def _raise(error: OSError) -> None:
    raise error


def _unlocked(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
