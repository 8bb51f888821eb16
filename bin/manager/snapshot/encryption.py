"""Encryption of what leaves the node, with SNAPSHOT_KEY: age's format, so that `age -d` opens it as well.

The format is authenticated in chunks of 64 KiB: whatever comes out was put in, and an end that is missing is noticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

import pyrage

from manager import pipe
from manager.errors import SnapshotDamaged, SnapshotError
from manager.settings import Settings
from manager.snapshot.archive import BLOCK, Chunks

AGE = "age"
SUFFIX = ".age"


class Keys:
    """The keys of SNAPSHOT_KEY, perhaps none: the first encrypts, and all decrypt."""

    def __init__(self, settings: Settings) -> None:
        keys = settings.snapshot_key or ()
        self._identities = [pyrage.x25519.Identity.from_str(key.value) for key in keys]
        self._recipients = [str(identity.to_public()) for identity in self._identities]

    @property
    def encryption(self) -> str:
        """What is done with `encrypt`: AGE, or nothing."""
        return AGE if self._identities else ""

    @property
    def recipient(self) -> str:
        """The public key for which `encrypt` encrypts, empty if it does not; it opens nothing, and is no secret."""
        return self._recipients[0] if self._recipients else ""

    @property
    def suffix(self) -> str:
        """What the name of an object ends with that people are to open by themselves."""
        return SUFFIX if self._identities else ""

    def at_most(self, size: int) -> int:
        """No less than the bytes that `encrypt` makes of `size`: a header, and 16 more for each chunk of 64 KiB."""
        return size + size // 4096 + 4096 if self._identities else size

    def check(self, encryption: str, recipient: str) -> None:
        """SnapshotError, naming SNAPSHOT_KEY, if there is no key for what was encrypted in this way for `recipient`."""
        if encryption not in ("", AGE):
            raise SnapshotError(f"it is encrypted by {encryption!r}, unknown to this version")
        if encryption and recipient not in self._recipients:
            lack = "has no key for that" if self._recipients else "is not set"
            raise SnapshotError(f"it is encrypted for {recipient}, and SNAPSHOT_KEY {lack}")

    def encrypt(self, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Yield the encrypted form of `chunks`; without a key them as they are. What `chunks` raises passes.

        To be closed by who does not read it to its end, as `decrypt`: a thread is at work.
        """
        if not self._identities:
            yield from chunks
            return
        first = [self._identities[0].to_public()]
        yield from _through(lambda source, target: pyrage.encrypt_io(source, target, first), chunks)

    def decrypt(self, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Undo `encrypt`; what was checked by `check` opens, unless it is damaged: SnapshotDamaged, at any chunk.

        What is yielded before was put in. `chunks` is read to its end. What their source raises passes through.
        """

        def step(source: Chunks, target: _Gathered) -> None:
            try:
                pyrage.decrypt_io(source, target, self._identities)
            except (OSError, pyrage.DecryptError) as error:
                said = " ".join(str(error).split())
                raise SnapshotDamaged(f"it is damaged in the store or ends early; age says: {said}") from None

        yield from _through(step, chunks)


class _Gathered:
    """Passes on in blocks what the library writes in small pieces."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        if len(self._held) >= BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._held:
            self._write(bytes(self._held))
            self._held.clear()


def _through(
    step: Callable[[Chunks, _Gathered], None], chunks: Iterable[bytes]
) -> Generator[bytes, None, None]:
    raised: list[Exception] = []

    def noted() -> Generator[bytes, None, None]:
        try:
            yield from chunks
        except Exception as error:
            raised.append(error)
            raise

    def run(write: Callable[[bytes], None]) -> None:
        target = _Gathered(write)
        with contextlib.closing(noted()) as source:
            try:
                step(Chunks(source), target)
            except Exception:
                if raised:  # of which the library leaves a text
                    raise raised.pop() from None
                raise
        target.flush()

    with pipe.written(run) as made:
        yield from made
