"""Telling how far a long copy is, every few seconds and at the end of each stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

Report = Callable[[str], None]


class Pace:
    """Counts the bytes of one stage. What `report` raises ends the copy: so a lost lock can stop it."""

    def __init__(
        self,
        report: Report | None,
        stage: str,
        total: int = 0,
        *,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` is the expected number of bytes, 0 if unknown; `interval` is in seconds."""
        self._report = report or log.info
        self._stage = stage
        self.total = total
        self._interval = interval
        self._clock = clock
        self._begin = self._told = clock()
        self.done = 0

    def moved(self, count: int) -> None:
        """`count` more bytes are through."""
        self.reached(self.done + count)

    def reached(self, done: int) -> None:
        """`done` bytes are through in all."""
        self.done = done
        if self._clock() - self._told >= self._interval:
            self._told = self._clock()
            self._report(self._line())

    def finish(self) -> None:
        """The stage is over."""
        self._report(f"{self._line(final=True)}, done in {self._clock() - self._begin:.1f} s")

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass `chunks` on, counting them."""
        for chunk in chunks:
            self.moved(len(chunk))
            yield chunk

    def _line(self, *, final: bool = False) -> str:
        seconds = max(self._clock() - self._begin, 0.001)
        line = f"{self._stage}: {size_text(self.done)}"
        rate = self.done / seconds
        if self.total and not final:
            line += f" of about {size_text(self.total)}"
        line += f", {size_text(int(rate))}/s"
        if self.done < self.total and rate and not final:
            line += f", about {(self.total - self.done) / rate:.0f} s left"
        return line


def size_text(count: int) -> str:
    """A number of bytes for people: `12 kB`, `3.4 GB` (powers of 1000)."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
