"""Saving a diverged server's extra transactions to the store, before anything is thrown away (G3).

In the store, under one folder per divergence: the binlogs that hold them, `transactions.sql` (the same for
people, where mysqlbinlog is installed), and last `diverged.json`, which says what is there. A folder without it
is not complete. With SNAPSHOT_KEY all but `diverged.json`, which holds no data, is encrypted, and named `*.age`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manager.comeback.binlog import Binlog, gtids
from manager.discovery.record import Record
from manager.errors import CannotList, ComebackError, ConfigError, StoreError
from manager.gtid import GtidSet
from manager.mysql.initialise import program
from manager.mysql.state import ServerState
from manager.node import Node
from manager.snapshot.encryption import Keys
from manager.snapshot.pipeline import Digest
from manager.storage.base import CHUNK, Store

LOG = logging.getLogger(__name__)

DESCRIPTION = "diverged.json"
DECODED = "transactions.sql"
FORMAT = 1
LONGEST_ARGUMENT = 100_000
DECODE_TIME = 3600.0


@dataclass(frozen=True)
class Piece:
    """A file of which these parts (from byte, to byte) are saved as one object."""

    path: Path
    parts: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        """Where the last part ends."""
        return self.parts[-1][1]


def folder_name(node: Node, server_uuid: str, now: float) -> str:
    """Return the folder of a divergence that was found at `now` (epoch seconds)."""
    at = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(now))
    return f"{_prefix(node)}{server_uuid}-{at}"


def about(record: Record, theirs: ServerState, *, server_uuid: str, way: str) -> dict[str, Any]:
    """What the description says of the two servers, and of the way back that follows (`trim` or `rebuild`)."""
    primary = {
        "name": record.primary_name,
        "server_uuid": record.primary,
        "epoch": record.epoch,
        "gtid_executed": str(theirs.executed),
    }
    return {"server_uuid": server_uuid, "cluster_id": record.id, "way": way, "primary": primary}


def whole_file(path: Path) -> Piece:
    """All complete events of a file."""
    with Binlog(path) as binlog:
        return Piece(path, ((0, binlog.whole),))


def held_by(pieces: Sequence[Piece]) -> GtidSet:
    """The transactions that begin in the saved parts."""
    held = GtidSet()
    for piece in pieces:
        with Binlog(piece.path) as binlog:
            begins = binlog.begins()
            inside = ((s, n) for at, s, n in begins if any(a <= at < b for a, b in piece.parts))
            held |= gtids(inside)
    return held


def save(node: Node, folder: str, extra: GtidSet, pieces: Sequence[Piece], facts: dict[str, Any]) -> None:
    """Store `pieces`, which hold all of `extra`, under `folder`; `facts` are added to the description.

    What is there under the same names, from a run that was cut off, is replaced. ComebackError if the pieces do
    not hold everything, StoreError if the store fails: then nothing counts as saved.
    """
    missing = extra - held_by(pieces)
    if missing:
        raise ComebackError(
            f"{missing.count} of its extra transactions are in no binlog of its own: {missing}"
        )
    store, keys = node.store, Keys(node.settings)
    with contextlib.suppress(StoreError):
        store.clear_leftovers(lambda name: name.startswith(_prefix(node)))
    files = [_put(store, keys, folder, piece) for piece in pieces]
    description = {
        "format": FORMAT,
        "node": node.title,
        "service_name": node.settings.service_name,
        "at": int(time.time()),
        "extra": str(extra),
        **facts,
        "encryption": keys.encryption,
        "recipient": keys.recipient,
        "files": files,
        "decoded": _decoded(node, keys, folder, extra, pieces),
    }
    store.put_bytes(_object(store, folder, DESCRIPTION), json.dumps(description, indent=1).encode() + b"\n")
    LOG.info("%d extra transactions are saved as %s", extra.count, folder)


def _prefix(node: Node) -> str:
    return f"{node.settings.service_name}-diverged-{node.name}-"


def _object(store: Store, folder: str, name: str) -> str:
    return f"{folder}/{name}" if store.folders else f"{folder}.{name}"


def _put(store: Store, keys: Keys, folder: str, piece: Piece) -> dict[str, Any]:
    """Store a piece; returns what the description says of it, whose size and sha256 are of what is stored."""
    name = _object(store, folder, piece.path.name + keys.suffix)
    digest = Digest()
    size = sum(end - start for start, end in piece.parts)
    with contextlib.closing(keys.encrypt(_content(piece))) as chunks:
        path = store.put_stream(name, digest.follow(chunks), at_most=keys.at_most(size))
    with contextlib.suppress(CannotList):
        stored = store.stat(name).size
        if stored != digest.size:
            raise StoreError(f"{path} has {stored} bytes, but {digest.size} were sent")
    return {
        "name": piece.path.name,
        "object": name,
        "size": digest.size,
        "sha256": digest.sha256,
        "parts": piece.parts,
    }


def _content(piece: Piece) -> Iterator[bytes]:
    try:
        with open(piece.path, "rb") as file:
            for start, end in piece.parts:
                file.seek(start)
                left = end - start
                while left:
                    chunk = file.read(min(CHUNK, left))
                    if not chunk:
                        raise ComebackError(f"{piece.path} has become shorter while it was saved")
                    left -= len(chunk)
                    yield chunk
    except OSError as error:
        raise ComebackError(f"{piece.path} cannot be read: {error.strerror}") from None


# --- For people ---------------------------------------------------------------------------------


def _decoded(node: Node, keys: Keys, folder: str, extra: GtidSet, pieces: Sequence[Piece]) -> str | None:
    """Store what mysqlbinlog makes of them and return the object's name; None if it cannot: the raw files count."""
    try:
        command = [program(node.settings, "mysqlbinlog"), "--no-defaults", "--force-if-open", "-vv"]
    except ConfigError as error:
        LOG.info("not decoded: %s", error)
        return None
    if len(str(extra)) < LONGEST_ARGUMENT:
        command.append(f"--include-gtids={extra}")
    command.append(f"--start-position={_first(pieces[0], extra)}")
    command += [f"--stop-position={pieces[-1].end}", *(str(piece.path) for piece in pieces)]
    name = _object(node.store, folder, DECODED + keys.suffix)
    try:
        with contextlib.closing(keys.encrypt(_output(command))) as chunks:
            node.store.put_stream(name, chunks)
    except ComebackError as error:
        LOG.warning("not decoded: %s", error)
        return None
    return name


def _first(piece: Piece, extra: GtidSet) -> int:
    """Where the first of the transactions begins in a file."""
    wanted = dict(extra.parts)
    with Binlog(piece.path) as binlog:
        begins = (at for at, s, n in binlog.begins() if any(a <= n <= b for a, b in wanted.get(s, ())))
        return next(begins, binlog.head.end)


def _output(command: list[str]) -> Iterator[bytes]:
    """Yield what the program prints; ComebackError if it fails, or has not ended within an hour."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints)
        except OSError as error:
            raise ComebackError(f"cannot run {command[0]}: {error.strerror}") from None
        timer = threading.Timer(DECODE_TIME, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            with process.stdout:
                while chunk := process.stdout.read(CHUNK):
                    yield chunk
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ComebackError(f"mysqlbinlog failed ({process.returncode}): {last or 'it said nothing'}")
