"""Judging a history against what the servers hold; pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from faults.history import Operation, Row, Sighting

SHOWN = 8


@dataclass(frozen=True)
class Violation:
    """Something that must not be; `kind` is a word for the summary, `fault` the number of the last fault."""

    kind: str
    fault: int
    text: str


@dataclass(frozen=True)
class Held:
    """What one server holds: the rows, and the lists with their elements in order."""

    node: str
    rows: frozenset[Row]
    lists: Mapping[int, Sequence[Row]]

    @property
    def all(self) -> set[Row]:
        """Everything that it holds."""
        return set(self.rows).union(*self.lists.values())


def missing(operations: Iterable[Operation], held: Held) -> list[Operation]:
    """Acknowledged operations that left nothing."""
    there = held.all
    return [one for one in operations if one.outcome == "acknowledged" and one.row not in there]


def unexpected(operations: Iterable[Operation], held: Held, *, running: Iterable[Row] = ()) -> list[Row]:
    """Elements that nobody wrote, or whose writer was told that they were not written.

    `running` are those whose outcome is not known yet.
    """
    possible = {one.row for one in operations if one.outcome != "failed"} | set(running)
    return sorted(held.all - possible)


def disorder(operations: Iterable[Operation], held: Held) -> list[str]:
    """Elements that are in a list twice, and acknowledged ones of one writer in another order than he wrote them."""
    acknowledged = {one.row for one in operations if one.outcome == "acknowledged"}
    found = []
    for key, elements in held.lists.items():
        twice = [element for element, times in Counter(elements).items() if times > 1]
        found += [f"list {key}: {element} is there {Counter(elements)[element]} times" for element in twice]
        last: dict[int, int] = {}
        for writer, number in elements:
            if (writer, number) not in acknowledged:
                continue
            if number < last.get(writer, 0):
                found.append(f"list {key}: writer {writer}'s {number} comes after {last[writer]}")
            last[writer] = number
    return found


# --- Two servers at a time ----------------------------------------------------------------------


def owners(records: Iterable[Sighting]) -> tuple[dict[int, str], list[str]]:
    """Return the primary of each epoch that was seen, and the epochs that had two."""
    found: dict[int, str] = {}
    twice = []
    for record in records:
        known = found.setdefault(record.epoch, record.primary)
        if known != record.primary:
            twice.append(f"epoch {record.epoch} names both {known} and {record.primary}")
    return found, twice


def promotions(records: Iterable[Sighting]) -> tuple[int, list[str]]:
    """Return how many promotions could be judged, and those in semisync that should have been refused.

    Judged is one whose record was seen just before it: in that, somebody was a member, and the chosen node was.
    """
    before: dict[tuple[int, int], Sighting] = {}
    judged, unsafe = 0, []
    for record in records:
        last = before.get((record.epoch - 1, record.version - 1))
        before[(record.epoch, record.version)] = record
        if last is None or last.durability != "semisync" or last.primary == record.primary:
            continue
        judged += 1
        if record.primary not in last.members:
            members = ", ".join(last.members) or "nobody"
            unsafe.append(
                f"epoch {record.epoch}: {record.primary_name} ({record.reason}); members: {members}"
            )
    return judged, unsafe


@dataclass(frozen=True)
class Overlap:
    """A server acknowledged `late` although a later epoch's primary had acknowledged `early` before it began."""

    late: Operation
    early: Operation

    @property
    def seconds(self) -> float:
        """How long after it."""
        return self.late.end - self.early.end


def overlaps(operations: Iterable[Operation], primaries: Mapping[int, str]) -> list[Overlap]:
    """Return the acknowledgements that no order of epochs can explain.

    Each operation is given the lowest epoch of its server that is not below that of any operation which ended
    before it began. An epoch that was not seen may have been anybody's. Nothing is left to give only if two
    servers acknowledged in turns within what the record has as one change of primary.
    """
    told = sorted((one for one in operations if one.outcome == "acknowledged"), key=lambda one: one.begin)
    running: list[tuple[float, int, int]] = []
    lowest, reason = 0, -1
    found: list[Overlap] = []
    for number, one in enumerate(told):
        while running and running[0][0] < one.begin:
            _, epoch, cause = heapq.heappop(running)
            if epoch > lowest:
                lowest, reason = epoch, cause
        given = _next_epoch(one.server, lowest, primaries)
        if given is None:
            found.append(Overlap(late=one, early=told[reason]))
        else:
            heapq.heappush(running, (one.end, given, number))
    return found


def _next_epoch(server: str, lowest: int, primaries: Mapping[int, str]) -> int | None:
    last = max(primaries, default=0)
    first = min(primaries, default=0)
    for epoch in range(max(lowest, first), last + 1):
        if primaries.get(epoch, server) == server:
            return epoch
    return None


# --- The end ------------------------------------------------------------------------------------


def differences(values: Mapping[str, str], what: str) -> list[str]:
    """Return one line if the nodes' values differ."""
    if len(set(values.values())) <= 1:
        return []
    return [f"{what} differ: " + "; ".join(f"{node}: {value}" for node, value in sorted(values.items()))]


def some(items: Sequence[object]) -> str:
    """The first few as text, and how many there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + more
