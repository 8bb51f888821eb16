"""What the clients did and were told, and which records stood in Consul; monotonic seconds throughout."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sandbox.writer import Outcome

Row = tuple[int, int]
"""A writer's number and the number that it gave to what it wrote."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One write: an insert, or an append to the list `key`."""

    writer: int
    number: int
    kind: Literal["insert", "append"]
    key: int
    begin: float
    end: float
    outcome: Outcome
    server: str
    error: str = ""

    @property
    def row(self) -> Row:
        """What identifies it."""
        return (self.writer, self.number)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record as it was first seen in Consul."""

    at: float
    epoch: int
    version: int
    primary: str
    primary_name: str
    members: tuple[str, ...]
    durability: str
    reason: str


@dataclass
class History:
    """Everything in the order in which it ended. Written by many threads, read by one."""

    operations: list[Operation] = field(default_factory=list)
    records: list[Sighting] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, operation: Operation) -> None:
        """Take in what one writer was told."""
        with self._changed:
            self.operations.append(operation)

    def so_far(self) -> list[Operation]:
        """A copy of what has been told."""
        with self._changed:
            return list(self.operations)

    def counts(self) -> dict[str, int]:
        """How many operations had which outcome."""
        told = self.so_far()
        return {
            name: sum(one.outcome == name for one in told) for name in ("acknowledged", "failed", "unknown")
        }

    def last_acknowledged(self) -> float:
        """When the last acknowledgement came; 0 if there was none."""
        with self._changed:
            return next((one.end for one in reversed(self.operations) if one.outcome == "acknowledged"), 0.0)

    def gap(self, begin: float, end: float) -> float:
        """The longest time between two acknowledgements that touches the time from `begin` to `end`."""
        times = sorted(one.end for one in self.so_far() if one.outcome == "acknowledged")
        before = max((moment for moment in times if moment <= begin), default=begin)
        inside = [moment for moment in times if begin < moment <= end]
        after = min((moment for moment in times if moment > end), default=end)
        points = [before, *inside, after]
        return max(later - earlier for earlier, later in zip(points, points[1:], strict=False))

    def save(self, directory: Path) -> None:
        """Write both parts as lines of JSON."""
        _lines(directory / "operations.jsonl", self.so_far())
        _lines(directory / "records.jsonl", self.records)


def sighting(text: bytes, at: float) -> Sighting:
    """Return what a record's text says; ValueError or LookupError if it is none."""
    content: Mapping[str, Any] = json.loads(text)
    return Sighting(
        at=at,
        epoch=int(content["epoch"]),
        version=int(content["version"]),
        primary=str(content["primary"]),
        primary_name=str(content["primary_name"]),
        members=tuple(content["members"]),
        durability=str(content["durability"]),
        reason=str(content["reason"]),
    )


class RecordWatch:
    """Looks at the record ten times a second in a thread of its own, and keeps every one that is new."""

    def __init__(
        self, read: Callable[[], bytes | None], clock: Callable[[], float], seen: list[Sighting]
    ) -> None:
        """`read` returns the record's text, None where there is none or no answer."""
        self._read, self._clock, self._seen = read, clock, seen
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        last = b""
        while not self._stopping.wait(0.1):
            text = self._read()
            if text and text != last:
                last = text
                self._seen.append(sighting(text, self._clock()))


def _lines(path: Path, items: Iterable[Operation | Sighting]) -> None:
    with open(path, "w") as file:
        for item in items:
            file.write(json.dumps(asdict(item)) + "\n")
