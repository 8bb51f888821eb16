"""Two stages of a stream at work at once: one produces, in a thread of its own, a little ahead of the other."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

ROOM = 4 << 20  # bytes
PATIENCE = 5.0  # seconds for a producer that waits for somebody else

Write = Callable[[bytes], None]


class GivenUp(Exception):
    """Raised in the producer: nobody takes what it makes any more."""


@contextlib.contextmanager
def written(run: Callable[[Write], None], *, room: int = ROOM) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over the chunks that `run` writes with the function that it is given.

    It runs in a thread, up to `room` bytes (and one chunk) ahead. What it raises, the iterator raises behind what was
    written before; the iterator ends only where `run` has returned. At the end of the block, however it ends, the next
    write of a producer that is not done raises. One that waits (for a store that is silent, say) is not waited for
    longer than PATIENCE: it ends by its own time limit, and what it still writes goes nowhere.
    """
    line = _Line(room)
    producer = threading.Thread(target=line.fill, args=(run,), name="producer", daemon=True)
    producer.start()
    try:
        yield line.chunks()
    finally:
        line.give_up()
        producer.join(PATIENCE)


@contextlib.contextmanager
def ahead(chunks: Iterable[bytes], *, room: int = ROOM) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over `chunks`, which a thread asks for in advance, and closes, as `written` does."""

    def run(write: Write) -> None:
        with contextlib.ExitStack() as stack:
            if close := getattr(chunks, "close", None):
                stack.callback(close)
            for chunk in chunks:
                write(chunk)

    with written(run, room=room) as given:
        yield given


class _Line:
    """Chunks that wait between a producer and a consumer."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._over = False  # nothing is added any more
        self._failure: BaseException | None = None  # why, unless the producer has come to its end
        self._changed = threading.Condition()

    def fill(self, run: Callable[[Write], None]) -> None:
        """Let `run` add chunks, then end the line."""
        failure: BaseException | None = None
        try:
            run(self._add)
        except BaseException as error:  # whatever it is, it belongs to who waits for the chunks
            failure = error
        self._end(failure)

    def chunks(self) -> Iterator[bytes]:
        """Take the chunks out in their order."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    if self._failure is not None:
                        raise self._failure
                    return
                chunk = self._waiting.popleft()
                self._size -= len(chunk)
                self._changed.notify_all()
            yield chunk

    def give_up(self) -> None:
        """Nobody asks any more: who does so nevertheless must not find a proper end."""
        with self._changed:
            if not self._over:
                self._waiting.clear()
        self._end(ValueError("the stream was given up before its end"))

    def _add(self, chunk: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._size < self._room)
            if self._over:
                raise GivenUp
            self._waiting.append(chunk)
            self._size += len(chunk)
            self._changed.notify_all()

    def _end(self, failure: BaseException | None) -> None:
        """The first to call this says how the line ends."""
        with self._changed:
            if not self._over:
                self._over, self._failure = True, failure
            self._changed.notify_all()
