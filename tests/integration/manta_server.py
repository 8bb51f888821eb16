"""A Manta for the tests: the real one's protocol, as strict as the real one.

It verifies signatures, dates and checksums, and stores an upload only when it is whole. Joyent's own command line is
the judge of it (test_storage_manta_cli.py). What a server can do to a client beyond that is in `Trouble`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.integration.manta_accounts import Account, Failure, Public, authenticate, authorize

DIRECTORY = "application/x-json-stream; type=directory"
BLOCK = 1 << 16


@dataclass
class Trouble:
    """What a test makes the server do to its clients."""

    busy: list[str] = field(default_factory=list)  # methods whose next request gets a 503, one by one
    retry_after: str = "1"
    silence: float = 0.0  # seconds before any answer
    clock: float = 0.0  # seconds by which its own clock is wrong
    cut_after: int | None = None  # bytes of an object after which the connection ends
    slow: float = 0.0  # seconds between two bytes of an object
    stall: float = 0.0  # seconds before the body of an upload is read
    damage: bool = False  # bytes of objects get other values on the way
    hang_up: int = 0  # how many of the next requests get no answer, but the end of the connection


@dataclass
class Entry:
    """A directory (`file` is None) or an object."""

    mtime: float
    file: Path | None = None
    size: int = 0
    md5: str = ""
    etag: str = field(default_factory=lambda: str(uuid.uuid4()))
    type: str = "application/octet-stream"


class MantaServer(ThreadingHTTPServer):
    """The server; `url` is what MANTA_URL gets."""

    daemon_threads = True

    def __init__(
        self, directory: Path, *, tls: ssl.SSLContext | None = None, secure_only: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.tls = tls
        self.secure_only = secure_only
        self.accounts: dict[str, Account] = {}
        self.entries: dict[str, Entry] = {}
        self.trouble = Trouble()
        self.room, self.default_limit = 1 << 40, 5 << 30
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.ports: list[int] = []  # of the connection of each request

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def add_account(self, name: str, *keys: Public) -> Account:
        """Make an account with its directory `stor`."""
        self.accounts[name] = Account(list(keys))
        self.make_directory(f"/{name}/stor")
        return self.accounts[name]

    def make_directory(self, path: str) -> None:
        self.entries[path] = Entry(time.time())

    def objects(self) -> list[str]:
        return sorted(path for path, entry in self.entries.items() if entry.file)

    def files(self) -> int:
        """How many files it keeps, those of unfinished uploads among them."""
        return len(list(self.directory.iterdir()))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""


@contextlib.contextmanager
def manta(
    directory: Path, *, tls: ssl.SSLContext | None = None, secure_only: bool = False
) -> Iterator[MantaServer]:
    """Run a server until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    server = MantaServer(directory, tls=tls, secure_only=secure_only)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(directory, ignore_errors=True)


class _Handler(BaseHTTPRequestHandler):
    server: MantaServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        return True  # said only when the body is wanted: `_body`

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(self._now() if timestamp is None else timestamp, usegmt=True)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_GET(self) -> None:
        self._serve(self._get)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _now(self) -> float:
        return time.time() + self.server.trouble.clock

    def _serve(self, verb: object) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.target = unquote(url.path).rstrip("/")
        trouble = self.server.trouble
        with self.server.lock:
            self.server.requests.append((self.command, self.target, dict(self.headers)))
            self.server.ports.append(self.client_address[1])
            hang_up = trouble.hang_up > 0
            trouble.hang_up -= hang_up
            busy = self.command in trouble.busy
            if busy:
                trouble.busy.remove(self.command)
        if hang_up:
            self.close_connection = True
            return
        time.sleep(trouble.silence)
        self._read_all = (
            "Transfer-Encoding" not in self.headers and int(self.headers.get("Content-Length", 0)) == 0
        )
        try:
            if busy:
                text = "No storage nodes available for this request"
                raise Failure(503, "InternalError", text, **{"Retry-After": trouble.retry_after})
            if self.server.secure_only and not self.server.tls:
                raise Failure(403, "SecureTransportRequired", "Manta requires a secure transport (SSL/TLS)")
            self._caller = authenticate(self.headers, self.server.accounts, self._now())
            verb()  # type: ignore[operator]
        except Failure as failure:
            body = json.dumps({"code": failure.code, "message": failure.message}).encode()
            self._answer(failure.status, {"Content-Type": "application/json", **failure.headers}, body)
        if not self._read_all:
            self._linger()

    def _linger(self) -> None:
        """End the connection so that a client in the middle of its body still finds the answer."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.settimeout(1.0)
            for _ in range(64):
                if not self.rfile.read1(BLOCK):
                    break

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not self._read_all:
            self.send_header("Connection", "close")
        if status != 204 and "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _authorize(self) -> None:
        authorize(self._caller, self.server.accounts, self.target, self.headers.get("Role", ""))

    def _parent_there(self) -> None:
        parent = self.target.rpartition("/")[0]
        entry = self.server.entries.get(parent)
        if entry is None and self.target not in self.server.entries:
            raise Failure(404, "DirectoryDoesNotExist", f"{parent} does not exist")
        if entry is not None and entry.file is not None:
            raise Failure(400, "ParentNotDirectory", f"{parent} is not a directory")

    def _found(self) -> Entry:
        entry = self.server.entries.get(self.target)
        if entry is None:
            raise Failure(404, "ResourceNotFound", f"{self.target} was not found")
        return entry

    # --- Verbs ----------------------------------------------------------------------------------------

    def _put(self) -> None:
        if self.target.count("/") < 2:
            raise Failure(
                400, "OperationNotAllowedOnRootDirectory", "PUT is not allowed on the root directory"
            )
        self._parent_there()
        self._authorize()
        if self.headers.get("If-None-Match") == "*":
            raise Failure(412, "PreconditionFailed", "if-none-match '*' is never true")
        now = self.server.entries.get(self.target)
        directory = re.fullmatch(r"application/json;\s*type=directory", self.headers.get("Content-Type", ""))
        if directory or (now is not None and now.file is None):
            length = self.headers.get("Content-Length", "0") != "0"
            if now is not None and (length or "Content-MD5" in self.headers):
                raise Failure(400, "InvalidUpdate", f"overwrite of {self.target} forbidden on a directory")
            if now is None:
                self.server.make_directory(self.target)
            self._answer(204, {})  # no Computed-MD5: nothing was stored
            return
        entry = self._receive()
        self.server.entries[self.target] = entry
        if now is not None and now.file is not None:
            now.file.unlink()
        self._answer(
            204,
            {
                "Etag": entry.etag,
                "Last-Modified": formatdate(entry.mtime, usegmt=True),
                "Computed-MD5": entry.md5,
            },
        )

    def _receive(self) -> Entry:
        """Store the body in a file of its own; whatever is wrong with it leaves nothing."""
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = self.headers.get("max-content-length" if chunked else "Content-Length")
        if length is None and not chunked:
            raise Failure(411, "ContentLengthRequired", "Content-Length must be >= 0")
        limit = int(length or self.server.default_limit)
        if limit < 0:
            raise Failure(400, "InvalidMaxContentLength", f"{limit} is an invalid max-content-length value")
        if limit > self.server.room:
            raise Failure(507, "NotEnoughSpace", f"not enough free space for {limit >> 20} MB")
        if not 1 <= int(self.headers.get("Durability-Level", 2)) <= 9:
            raise Failure(400, "InvalidDurabilityLevel", "durability-level must be between 1 and 9")
        path = self.server.directory / str(uuid.uuid4())
        md5, size = hashlib.md5(), 0
        try:
            with open(path, "wb") as file:
                for block in self._body(chunked, limit):
                    size += len(block)
                    if size > limit:
                        raise Failure(413, "MaxContentLengthExceeded", f"request has exceeded {limit} bytes")
                    if self.server.trouble.damage:
                        block = bytes([block[0] ^ 1]) + block[1:]
                    md5.update(block)
                    file.write(block)
            self._read_all = True
            computed = base64.b64encode(md5.digest()).decode()
            expected = self.headers.get("Content-MD5", computed)
            if expected != computed:
                text = f"Content-MD5 expected {expected}, but was {computed}"
                raise Failure(400, "ContentMD5Mismatch", text)
        except BaseException:
            path.unlink()
            raise
        kind = self.headers.get("Content-Type", "application/octet-stream")
        return Entry(self._now(), path, size, computed, type=kind)

    def _body(self, chunked: bool, length: int) -> Iterator[bytes]:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        time.sleep(self.server.trouble.stall)
        if not chunked:
            yield from self._exactly(length)
            return
        while size := int(self.rfile.readline(100).split(b";")[0], 16):  # ValueError: the connection ended
            yield from self._exactly(size)
            self.rfile.read(2)
        self.rfile.read(2)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.rfile.read(min(size, BLOCK))
            if not block:
                raise ConnectionError("the upload was broken off")
            size -= len(block)
            yield block

    def _get(self) -> None:
        self._authorize()
        entry = self._found()
        if entry.file is None:
            self._list()
            return
        headers = {
            "Content-Type": entry.type,
            "Etag": entry.etag,
            "Last-Modified": formatdate(entry.mtime, usegmt=True),
            "Durability-Level": "2",
        }
        start, end, status = 0, entry.size, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or entry.size) + 1, entry.size)
            if start >= end:
                raise Failure(416, "RequestedRangeNotSatisfiable", "the requested range is not satisfiable")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
        else:
            headers["Content-MD5"] = entry.md5
        with open(entry.file, "rb") as file:  # an overwrite meanwhile does not change what is sent
            self._answer(status, {**headers, "Content-Length": str(end - start)})
            if self.command != "HEAD":
                file.seek(start)
                self._send(file, end - start)

    def _send(self, file: BinaryIO, size: int) -> None:
        trouble = self.server.trouble
        if trouble.cut_after is not None:
            self.close_connection = size > trouble.cut_after
            size = min(size, trouble.cut_after)
        while size:
            block = file.read(1 if trouble.slow else min(size, BLOCK))
            size -= len(block)
            self.wfile.write(bytes([block[0] ^ 1]) + block[1:] if trouble.damage else block)
            time.sleep(trouble.slow)

    def _list(self) -> None:
        limit = int(self.query.get("limit", 256))
        if not 1 <= limit <= 1024:
            raise Failure(400, "InvalidArgumentError", f"limit={limit} is invalid: must be between [1, 1024]")
        below = {
            path.rpartition("/")[2]: entry
            for path, entry in list(self.server.entries.items())
            if path.rpartition("/")[0] == self.target
        }
        page = sorted(name for name in below if name >= self.query.get("marker", ""))[
            :limit
        ]  # the marker as well
        lines = (json.dumps(_line(name, below[name])).encode() + b"\n" for name in page)
        headers = {
            "Content-Type": DIRECTORY,
            "Result-Set-Size": str(len(below)),
            "Transfer-Encoding": "chunked",
        }
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines)
        self._answer(200, headers, chunks + b"0\r\n\r\n")

    def _delete(self) -> None:
        self._authorize()
        entry = self._found()
        if self.target.count("/") < 3:
            raise Failure(
                400, "OperationNotAllowedOnRootDirectory", "DELETE is not allowed on the root directory"
            )
        if entry.file is None and any(path.startswith(f"{self.target}/") for path in self.server.entries):
            raise Failure(400, "DirectoryNotEmpty", f"{self.target} is not empty")
        del self.server.entries[self.target]
        if entry.file is not None:
            entry.file.unlink()
        self._answer(204, {})


def _line(name: str, entry: Entry) -> dict[str, object]:
    mtime = datetime.fromtimestamp(entry.mtime, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if entry.file is None:
        return {"name": name, "type": "directory", "mtime": mtime}
    return {"name": name, "etag": entry.etag, "size": entry.size, "type": "object", "mtime": mtime}
