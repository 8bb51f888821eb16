"""Binlogs as bytes, made by hand: what a server would have to be killed at the right moment for."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from manager.gtid import GtidSet

QUERY, ROTATE, FORMAT, XID, TABLE, GTID, ANONYMOUS, PREVIOUS = 2, 4, 15, 16, 19, 33, 34, 35
ROWS, XA_PREPARE, PAYLOAD, TAGGED = 30, 38, 40, 42
TABLE_AND_ROWS = ((TABLE, b"t" * 40), (ROWS, b"r" * 60))

Events = Sequence[tuple[int, bytes]]


def query(text: str) -> tuple[int, bytes]:
    """A Query event with some status variables and a schema."""
    return QUERY, struct.pack("<IIBHH", 7, 0, 2, 0, 5) + b"vvvvv" + b"db\0" + text.encode()


def rows() -> Events:
    """An ordinary transaction: BEGIN, rows, Xid."""
    return (query("BEGIN"), *TABLE_AND_ROWS, (XID, bytes(8)))


class BinlogFile:
    """A file that grows as a server would write it; `at` is where each transaction begins."""

    def __init__(self, previous: GtidSet | str = "", *, in_use: bool = True, checksums: bool = True) -> None:
        self.data = b"\xfebin"
        self.at: list[int] = []
        self._checksums = checksums
        head = struct.pack("<H50sIB", 4, b"9.7.4", 0, 19) + bytes(41) + bytes([int(checksums)])
        self.event(FORMAT, head + (b"" if checksums else bytes(4)), flags=int(in_use))
        if isinstance(previous, str):
            previous = GtidSet.parse(previous)
        self.event(PREVIOUS, gtid_set(previous))
        self.head = len(self.data)

    def event(self, kind: int, body: bytes, *, flags: int = 0) -> None:
        length = 19 + len(body) + (4 if self._checksums else 0)
        event = struct.pack("<IBIIIH", 1, kind, 9, length, len(self.data) + length, flags) + body
        if self._checksums:
            event += struct.pack("<I", zlib.crc32(event))
        self.data += event

    def add(self, gtid: str, events: Iterable[tuple[int, bytes]] | None = None) -> None:
        """Append a transaction `uuid:number` or `uuid:tag:number`; empty: one without a GTID."""
        given = list(rows() if events is None else events)
        self.at.append(len(self.data))
        overhead = 23 if self._checksums else 19
        rest = sum(overhead + len(body) for _, body in given)
        kind, body = _gtid_event(gtid, rest, overhead)
        self.event(kind, body)
        for event in given:
            self.event(*event)

    def write(self, path: Path, size: int | None = None) -> Path:
        """Store the file, or only its first `size` bytes."""
        path.write_bytes(self.data if size is None else self.data[:size])
        return path


def datadir(directory: Path, *files: BinlogFile) -> Path:
    """Write binlog.000001 and so on with their index, and a server's identity."""
    names = [f"binlog.{number:06}" for number in range(1, len(files) + 1)]
    for name, file in zip(names, files, strict=True):
        file.write(directory / name)
    (directory / "binlog.index").write_text("".join(f"./{name}\n" for name in names))
    return directory


def _gtid_event(gtid: str, rest: int, overhead: int) -> tuple[int, bytes]:
    server, _, number = gtid.rpartition(":")
    server, _, tag = server.partition(":")
    if not gtid:
        return ANONYMOUS, bytes(42)
    if tag:
        fields = b"\0\0" + b"\2" + b"".join(unsigned(b) for b in uuid.UUID(server).bytes)
        fields += b"\4" + unsigned(int(number) << 1) + b"\6" + unsigned(len(tag)) + tag.encode()
        return TAGGED, unsigned(1) + unsigned(60) + unsigned(0) + fields + b"\x08\x3c"
    body = b"\1" + uuid.UUID(server).bytes + struct.pack("<QBQQ", int(number), 2, 1, 2) + b"\1\2\3\4\5\6\7"
    length = overhead + len(body) + 3 + rest
    return GTID, body + b"\xfc" + struct.pack("<H", length)


def unsigned(value: int) -> bytes:
    """A number of the variable-length form, in as few bytes as it needs."""
    for size in range(1, 9):
        if value < 1 << 7 * size:
            return (value << size | (1 << size - 1) - 1).to_bytes(size, "little")
    return b"\xff" + value.to_bytes(8, "little")


def gtid_set(gtids: GtidSet) -> bytes:
    """The body of a Previous_gtids event, as servers write it: with tags only where there are some."""
    tagged = any(tag for (_, tag), _ in gtids.parts)
    count = len(gtids.parts)
    body = b"\1" + count.to_bytes(6, "little") + b"\1" if tagged else struct.pack("<Q", count)
    for (server, tag), intervals in gtids.parts:
        body += uuid.UUID(server).bytes
        body += unsigned(len(tag)) + tag.encode() if tagged else b""
        body += struct.pack("<Q", len(intervals))
        body += b"".join(struct.pack("<QQ", first, last + 1) for first, last in intervals)
    return body
