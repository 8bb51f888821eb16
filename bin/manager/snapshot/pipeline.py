"""The stages between an engine and a store: compressed and encrypted on the way out; on the way back checked against
the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator

from manager import pipe
from manager.errors import ObjectMissing, SnapshotDamaged
from manager.snapshot import archive
from manager.snapshot.encryption import Keys
from manager.snapshot.manifest import Manifest
from manager.snapshot.progress import Pace
from manager.storage import Store


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


def outgoing(
    chunks: Iterator[bytes], pace: Pace, digest: Digest, *, rate: int | None, keys: Keys
) -> Generator[bytes, None, None]:
    """Yield what is stored for an engine's `chunks`, read at `rate` bytes a second at most; `digest` is of that.

    To be closed by who does not read it to its end: stages may run in threads.
    """
    with (
        pipe.ahead(archive.compress(pace.count(limited(chunks, rate)))) as packed,
        contextlib.closing(keys.encrypt(packed)) as sealed,
    ):
        yield from digest.follow(sealed)


def incoming(store: Store, manifest: Manifest, pace: Pace, keys: Keys) -> Generator[bytes, None, None]:
    """Yield what the engine gave; at the end SnapshotDamaged if the object is not what the manifest says.

    SnapshotDamaged also where it is no object of ours, or gone; StoreError from the store. `keys` has been found to
    fit (`Keys.check`). To be closed as `outgoing`.
    """
    digest = Digest()
    try:
        with (
            pipe.ahead(store.get_stream(manifest.id)) as fetched,
            pipe.ahead(_unpacked(digest.follow(pace.count(fetched)), manifest, keys)) as content,
        ):
            yield from content
    except ObjectMissing:
        raise SnapshotDamaged("it has a manifest, but its object is gone") from None
    pace.finish()
    if (digest.size, digest.sha256) != (manifest.size, manifest.sha256):
        raise SnapshotDamaged(
            f"it is damaged in the store: {digest.size} bytes, sha256 {digest.sha256};"
            f" its manifest says {manifest.size} and {manifest.sha256}"
        )


def _unpacked(stored: Iterator[bytes], manifest: Manifest, keys: Keys) -> Iterator[bytes]:
    if manifest.encryption:
        with contextlib.closing(keys.decrypt(stored)) as packed:
            yield from archive.decompress(packed)
    else:
        yield from archive.decompress(stored)


def limited(
    chunks: Iterator[bytes],
    rate: int | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """Pass `chunks` on at `rate` bytes a second at most, or as they come; unused time is made up for by 1 s at most."""
    if rate is None:
        yield from chunks
        return
    free_at = clock()
    for chunk in chunks:
        yield chunk
        now = clock()
        free_at = max(free_at, now - 1.0) + len(chunk) / rate
        if free_at > now:
            sleep(free_at - now)
