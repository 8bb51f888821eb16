"""Sets of GTIDs, with the tags that MySQL has had since 8.3.

The grammar is that of the manual's "GTID Sets": `uuid[:tag]:n[-m]...`, several sources parted by commas.
A tag holds for the intervals after it, up to the next tag or comma (`uuid:1-6:blue:1`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Interval = tuple[int, int]
Source = tuple[str, str]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL = re.compile(r"([0-9]+)(?:\s*-\s*([0-9]+))?", re.ASCII)
LAST_NUMBER = 2**63 - 2


@dataclass(frozen=True, slots=True)
class GtidSet:
    """An immutable set of transactions.

    `parts` maps each (server uuid, tag) to its intervals, both ends included. It is kept normal: sorted,
    without empty entries, and without intervals that touch; so equality of sets is equality of fields.
    """

    parts: tuple[tuple[Source, tuple[Interval, ...]], ...] = ()

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Return the set that `text` names; ValueError says which piece of it is no GTID set."""
        collected: dict[Source, list[Interval]] = {}
        for piece in text.lower().split(","):
            if piece.strip():
                _parse_source(piece, collected)
        return cls._of(collected)

    @classmethod
    def _of(cls, collected: dict[Source, list[Interval]]) -> GtidSet:
        merged = ((source, _merge(collected[source])) for source in sorted(collected))
        return cls(tuple((source, intervals) for source, intervals in merged if intervals))

    def __str__(self) -> str:
        """Return the server's own form, on one line (the server breaks the line after each comma)."""
        texts: list[str] = []
        previous = ""
        for (uuid, tag), intervals in self.parts:
            numbers = ":".join(str(a) if a == b else f"{a}-{b}" for a, b in intervals)
            part = f"{tag}:{numbers}" if tag else numbers
            if uuid == previous:
                texts[-1] += f":{part}"
            else:
                texts.append(f"{uuid}:{part}")
            previous = uuid
        return ",".join(texts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def count(self) -> int:
        """The number of transactions in the set."""
        return sum(b - a + 1 for _, intervals in self.parts for a, b in intervals)

    def of_sources(self, uuids: Iterable[str]) -> GtidSet:
        """The part of this set that comes from these servers, whatever its tags."""
        wanted = frozenset(uuids)
        return GtidSet(tuple(part for part in self.parts if part[0][0] in wanted))

    def whole(self) -> GtidSet:
        """Every transaction that the sources of this set can ever have, under the tags that they have here."""
        return GtidSet(tuple((source, ((1, LAST_NUMBER),)) for source, _ in self.parts))

    @property
    def uuids(self) -> frozenset[str]:
        """The server uuids, in lower case, that have transactions here."""
        return frozenset(uuid for (uuid, _), _ in self.parts)

    def __or__(self, other: GtidSet) -> GtidSet:
        collected: dict[Source, list[Interval]] = {}
        for source, intervals in (*self.parts, *other.parts):
            collected.setdefault(source, []).extend(intervals)
        return self._of(collected)

    def __sub__(self, other: GtidSet) -> GtidSet:
        taken = dict(other.parts)
        return self._of({s: _subtract(intervals, taken.get(s, ())) for s, intervals in self.parts})

    def __and__(self, other: GtidSet) -> GtidSet:
        return self - (self - other)

    def __le__(self, other: GtidSet) -> bool:
        """True if every transaction of this set is in `other`."""
        return not self - other


def _parse_source(piece: str, collected: dict[Source, list[Interval]]) -> None:
    uuid, *rest = (part.strip() for part in piece.split(":"))
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"no server uuid in front of the GTID set {piece.strip()!r}")
    tag = ""
    numbers = False
    for part in rest:
        if match := _INTERVAL.fullmatch(part):
            first = int(match[1])
            last = int(match[2]) if match[2] else first
            if not 1 <= first <= last <= LAST_NUMBER:
                raise ValueError(f"{part!r} is no interval of transactions in {piece.strip()!r}")
            collected.setdefault((uuid, tag), []).append((first, last))
            numbers = True
        elif _TAG.fullmatch(part):
            tag = part
            numbers = False
        else:
            raise ValueError(f"{part!r} is neither an interval nor a tag in {piece.strip()!r}")
    if not numbers:
        raise ValueError(f"the GTID set {piece.strip()!r} ends without an interval")


def _merge(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Sort the intervals and join those that overlap or touch."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _subtract(intervals: Iterable[Interval], taken: Iterable[Interval]) -> list[Interval]:
    """Return what is left of `intervals` without `taken`; both sorted and without overlaps."""
    left: list[Interval] = []
    holes = list(taken)
    position = 0
    for first, last in intervals:
        while position < len(holes) and holes[position][1] < first:
            position += 1
        here = position
        start = first
        while here < len(holes) and holes[here][0] <= last:
            if holes[here][0] > start:
                left.append((start, holes[here][0] - 1))
            start = holes[here][1] + 1
            here += 1
        if start <= last:
            left.append((start, last))
    return left
