"""Just enough of the binlog's format to say which transactions a file holds, where each lies, and how it ends.

Event headers as in the manual of MySQL's internals ("Binary Log Event Structure"); tagged GTIDs, which have a
format of their own since 8.3, as measured on 9.7.4. Nothing is read of what a transaction did.
"""

from __future__ import annotations

import mmap
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from manager.errors import BinlogError
from manager.gtid import GtidSet, Source

INDEX = "binlog.index"
RELAY_INDEX = "relay.index"

_MAGIC = b"\xfebin"
_ENCRYPTED = b"\xfdbin"
_HEADER = struct.Struct("<IBIIIH")  # time, type, server_id, length, end position, flags
# The same, then a GTID event's flags, uuid, number, kind of logical clock, two clock values, commit time; behind
# it, where the time's highest bit is set, the original commit time, and then the transaction's length.
_GTID_EVENT = struct.Struct("<4xB4xI6xx16sQB16x7s")
_CHECKSUM = 4
_IN_USE = 0x1  # LOG_EVENT_BINLOG_IN_USE_F: set while the file is written, cleared when it is closed cleanly

_QUERY, _STOP, _ROTATE, _FORMAT, _XID, _HEARTBEAT = 2, 3, 4, 15, 16, 27
_GTID, _ANONYMOUS, _PREVIOUS, _TAGGED = 33, 34, 35, 42
_OPENS = frozenset({_GTID, _ANONYMOUS, _TAGGED})
_BETWEEN = frozenset({_STOP, _ROTATE, _FORMAT, _HEARTBEAT, _PREVIOUS, 41})
# What a transaction of an engine that can roll back is made of: statements and what goes with them, table maps,
# rows of all versions. Not among them: XA (38), a compressed payload (40).
_PLAIN = frozenset({_QUERY, 5, 13, 14, 19, 23, 24, 25, 29, 30, 31, 32, 39})


class End(Enum):
    """How a transaction ends in the file."""

    XID = "an Xid event: an engine that prepares and can roll back"
    OTHER = "something else: another engine, DDL, XA, a compressed payload"
    HALF = "the end of the file: the rest was never written"


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction and its place in the file, in bytes. One without a GTID has the number 0."""

    source: Source
    number: int
    start: int
    end: int
    how: End


@dataclass(frozen=True, kw_only=True)
class Head:
    """The beginning of a file: up to `end` there is no transaction. `previous` is all that older files held."""

    in_use: bool
    checksums: bool
    previous: GtidSet
    end: int


class Binlog:
    """One binlog or relay log, as long as it was when it was opened; a context manager.

    BinlogError if it is no file of this kind, or encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            with open(path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise BinlogError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise BinlogError(f"{path} is empty") from None
        try:
            self.head = self._read_head()
        except BaseException:
            self._data.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def begins(self) -> Iterator[tuple[int, Source, int]]:
        """Yield where each transaction begins, its source and its number; far faster than `transactions`.

        It jumps by the length that a GTID event gives for its transaction, where there is one.
        """
        data, size, unpack = self._data, len(self._data), _GTID_EVENT.unpack_from
        known: dict[bytes, Source] = {}
        position = self.head.end
        while position + _GTID_EVENT.size < size:
            kind, length, server, number, clock, at = unpack(data, position)
            if kind == _GTID and position + length <= size:
                source = known.get(server)
                if source is None:
                    source = known[server] = (str(uuid.UUID(bytes=server)), "")
                yield position, source, number
                behind = position + _GTID_EVENT.size + (0 if at[6] < 0x80 else 7)
                position += max(length, _packed(data, behind) if clock == 2 else 0)
                continue
            if length < _HEADER.size:
                raise BinlogError(f"{self.name} is damaged at byte {position}")
            if kind in _OPENS and position + length <= size:
                yield position, *self._gtid(position, kind, length)
            position += length

    def transactions(self, start: int | None = None) -> Iterator[Transaction]:
        """Yield the transactions from `start` on (of the whole file); a torn event at its end is passed over."""
        group: _Group | None = None
        for position, kind, length in self._events(self.head.end if start is None else start):
            if kind in _OPENS:
                if group is not None:
                    yield group.closed()
                source, number = self._gtid(position, kind, length)
                group = _Group(source, number, position, position + length)
            elif kind in _BETWEEN:
                if group is not None:
                    yield group.closed()
                group = None
            elif group is not None:
                group.add(
                    kind, position + length, self._statement(position, length) if kind == _QUERY else b""
                )
        if group is not None:
            yield group.closed()

    def sound(self, start: int, end: int) -> bool:
        """True if the events from `start` on end exactly at `end`, each with a right checksum if it has one."""
        last = start
        for position, _, length in self._events(start):
            last = position + length
            if self.head.checksums:
                content = self._data[position : last - _CHECKSUM]
                if zlib.crc32(content) != int.from_bytes(self._data[last - _CHECKSUM : last], "little"):
                    return False
            if last >= end:
                break
        return last == end

    @property
    def whole(self) -> int:
        """Where the last complete event ends."""
        last = self.head.end
        for at, _, _ in self.begins():
            last = at
        for position, _, length in self._events(last):
            last = position + length
        return last

    def _events(self, position: int) -> Iterator[tuple[int, int, int]]:
        data, size, unpack = self._data, len(self._data), _HEADER.unpack_from
        while position + _HEADER.size <= size:
            _, kind, _, length, _, _ = unpack(data, position)
            if length < _HEADER.size:
                raise BinlogError(f"{self.name} is damaged at byte {position}")
            if position + length > size:
                return
            yield position, kind, length
            position += length

    def _read_head(self) -> Head:
        magic = self._data[:4]
        if magic == _ENCRYPTED:
            raise BinlogError(f"{self.name} is encrypted: it can be read with its server's keyring only")
        if magic != _MAGIC:
            raise BinlogError(f"{self.name} is no binlog")
        checksums, in_use, previous = False, False, GtidSet()
        for position, kind, length in self._events(4):
            if kind == _FORMAT:
                flags = _HEADER.unpack_from(self._data, position)[5]
                in_use = bool(flags & _IN_USE)
                checksums = self._data[position + length - _CHECKSUM - 1] == 1
            elif kind == _PREVIOUS:
                previous = _gtid_set(self._body(position, length, checksums))
                return Head(in_use=in_use, checksums=checksums, previous=previous, end=position + length)
            elif kind != _ROTATE:
                break
        raise BinlogError(f"{self.name} does not begin with the GTIDs of the files before it")

    def _body(self, position: int, length: int, checksums: bool) -> bytes:
        return self._data[position + _HEADER.size : position + length - (_CHECKSUM if checksums else 0)]

    def _gtid(self, position: int, kind: int, length: int) -> tuple[Source, int]:
        body = self._body(position, length, self.head.checksums)
        try:
            if kind == _TAGGED:
                return _tagged(body)
            if kind == _ANONYMOUS:
                return ("", ""), 0
            return (str(uuid.UUID(bytes=body[1:17])), ""), int.from_bytes(body[17:25], "little")
        except (ValueError, IndexError):
            raise BinlogError(f"{self.name} holds a GTID at byte {position} that cannot be read") from None

    def _statement(self, position: int, length: int) -> bytes:
        """The text of a Query event: after thread, time, schema's length, error, and the status variables."""
        body = self._body(position, length, self.head.checksums)
        if len(body) < 13:
            raise BinlogError(f"{self.name} holds a statement at byte {position} that cannot be read")
        return body[13 + int.from_bytes(body[11:13], "little") + body[8] + 1 :]


class _Group:
    """A transaction while its events are read."""

    def __init__(self, source: Source, number: int, start: int, end: int) -> None:
        self._source, self._number, self._start, self._end = source, number, start, end
        self._begun = False
        self._how = End.HALF if number else End.OTHER

    def add(self, kind: int, end: int, statement: bytes) -> None:
        self._end = end
        if self._how is not End.HALF:
            self._how = End.OTHER  # something after what looked like the end
        elif kind == _QUERY and not self._begun:
            # A statement instead of a BEGIN is DDL, or XA START.
            self._begun = statement == b"BEGIN"
            self._how = End.HALF if self._begun else End.OTHER
        elif kind == _XID:
            self._how = End.XID if self._begun else End.OTHER
        elif kind not in _PLAIN or statement in (b"COMMIT", b"ROLLBACK"):
            self._how = End.OTHER

    def closed(self) -> Transaction:
        return Transaction(self._source, self._number, self._start, self._end, self._how)


def files(datadir: Path, index: str = INDEX) -> list[Path]:
    """Return the files that an index names, the oldest first; none if there is no index."""
    try:
        lines = (datadir / index).read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise BinlogError(f"{datadir / index} cannot be read: {error}") from None
    return [datadir / line for line in lines if line]


def holding(paths: Iterable[Path], wanted: GtidSet) -> list[Path]:
    """Return those of the files, given in their order, that may hold one of the `wanted` transactions."""
    found: list[Path] = []
    missing = wanted
    for path in reversed(list(paths)):
        if not missing:
            break
        with Binlog(path) as binlog:
            if missing - binlog.head.previous:
                found.insert(0, path)
            missing = missing & binlog.head.previous
    return found


def gtids(numbers: Iterable[tuple[Source, int]]) -> GtidSet:
    """The set of these GTIDs; those with the number 0 are none."""
    intervals: dict[Source, list[list[int]]] = {}
    for source, number in numbers:
        if not number:
            continue
        known = intervals.setdefault(source, [])
        if known and known[-1][1] + 1 == number:
            known[-1][1] = number
        else:
            known.append([number, number])
    texts = []
    for (server, tag), ranges in intervals.items():
        text = ":".join(f"{a}-{b}" for a, b in ranges)
        texts.append(f"{server}:{tag}:{text}" if tag else f"{server}:{text}")
    return GtidSet.parse(",".join(texts))


# --- GTIDs as bytes -----------------------------------------------------------------------------


def _gtid_set(body: bytes) -> GtidSet:
    """The set in a Previous_gtids event.

    8 bytes with the number of sources (with tags: a 1 at both ends of them), then for each its uuid, its tag
    (with tags), the number of its intervals, and these, whose ends are not included.
    """
    tagged = body[7] == 1
    count = int.from_bytes(body[1:7] if tagged else body[:8], "little")
    position = 8
    texts = []
    try:
        for _ in range(count):
            server = str(uuid.UUID(bytes=body[position : position + 16]))
            position += 16
            tag = ""
            if tagged:
                length, position = _number(body, position)
                tag = body[position : position + length].decode("ascii") + ":" if length else ""
                position += length
            (intervals,) = struct.unpack_from("<Q", body, position)
            position += 8
            for _ in range(intervals):
                first, after = struct.unpack_from("<QQ", body, position)
                texts.append(f"{server}:{tag}{first}-{after - 1}")
                position += 16
        return GtidSet.parse(",".join(texts))
    except (ValueError, IndexError, struct.error):
        raise BinlogError("the GTIDs at the beginning of a binlog cannot be read") from None


def _tagged(body: bytes) -> tuple[Source, int]:
    """The GTID in a tagged event: numbered fields, 0 flags, 1 uuid (16 numbers), 2 number, 3 tag."""
    position = 0
    for _ in range(3):  # the version of the format, the size, the last field that must be understood
        _, position = _number(body, position)
    server, number, tag = b"", 0, ""
    for expected in range(4):
        field, position = _number(body, position)
        if field != expected:
            raise ValueError(f"field {field}")
        if field == 1:
            values = []
            for _ in range(16):
                value, position = _number(body, position)
                values.append(value)
            server = bytes(values)
        elif field == 3:
            length, position = _number(body, position)
            tag = body[position : position + length].decode("ascii")
        else:
            value, position = _number(body, position)
            number = value >> 1  # a signed number; its lowest bit is the sign
    return (str(uuid.UUID(bytes=server)), tag), number


def _packed(data: mmap.mmap, position: int) -> int:
    """A length-encoded integer of the client protocol; 0 where it is cut off."""
    first = data[position : position + 1]
    if not first or first[0] < 251:
        return first[0] if first else 0
    count = {252: 2, 253: 3, 254: 8}.get(first[0], 0)
    return int.from_bytes(data[position + 1 : position + 1 + count], "little")


def _number(body: bytes, position: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and the position after it: as many ones at the low end as bytes follow."""
    first = body[position]
    more = 0
    while more < 8 and first >> more & 1:
        more += 1
    value = int.from_bytes(body[position : position + more + 1], "little")
    return value >> min(more + 1, 8), position + more + 1
