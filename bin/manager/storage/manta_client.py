"""Requests to Manta: the SDK's verbs for paths and its signatures, with bodies that stream, and an end to every wait.

The SDK's own transport holds bodies whole, has no time limit, and does no https from Python 3.12 on; this is
another one beneath the same client.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError

from manager.settings import Settings
from manager.storage.base import CHUNK
from manager.storage.bounded import bounded
from manager.storage.manta_key import Key, MantaClient, read_key
from manager.waiting import Deadline, pause

CONNECT = 3.0
READ = 60.0  # for each CHUNK of an answer, its headers included: slower is no better than silence
ATTEMPTS = 3
LONGEST_WAIT = 60.0  # a server that asks for more is away; the real one asks for 30 s
LONGEST_ERROR = 1 << 16
DIRECTORY = "type=directory"  # what the type of a directory's listing ends in


class Refused(Exception):
    """Manta answered, with an error: its HTTP status, its own code ("" if it gave none) and its words."""

    def __init__(self, answer: requests.Response) -> None:
        said: Any = None
        with contextlib.suppress(ValueError):
            said = json.loads(_beginning(answer))
        said = said if isinstance(said, dict) else {}
        self.status = answer.status_code
        self.code = str(said.get("code", ""))
        self.text = " ".join(str(said.get("message", answer.reason or "")).split())[:300]
        super().__init__(f"{self.status} {self.code} {self.text}")
        self.off_by = _off_by(answer.headers.get("Date", ""))
        self.retry_after: float | None = None
        if self.status == 503:
            given = answer.headers.get("Retry-After", "")
            self.retry_after = float(given) if given.isdecimal() else 1.0


class NoDirectory(Exception):
    """Where a directory was to be listed is an object, of whatever size."""


class Body:
    """Chunks on their way to Manta: how many bytes, their md5, and what their producer raised."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = next(self._chunks, None)
            except BaseException as error:
                # The transport makes its own of some errors; without the end of the body nothing is stored.
                self.failure = error
                raise
            if chunk is None:
                return
            self._md5.update(chunk)
            yield chunk

    @property
    def md5(self) -> str:
        """Of what was sent so far, as Manta writes it."""
        return b64encode(self._md5.digest()).decode()


class Client(MantaClient):  # type: ignore[misc]  # the SDK carries no type information
    """The SDK's client with `requests` beneath it. Each call raises Refused, or what `requests` and urllib3 raise."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.manta_url, settings.manta_user, settings.manta_subuser, settings.manta_role)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())
        self._signature = _Signature(read_key(settings))
        self._verify = _authorities()

    def _request(
        self,
        path: str,
        method: str = "GET",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """What the SDK's verbs call, of which GET is for directories; none gets to see an error."""
        with self.open(method, path, query=query, headers=headers, body=body) as answer:
            if method == "GET" and DIRECTORY not in answer.headers.get("Content-Type", ""):
                raise NoDirectory(path)
            content = b"".join(read(answer))
        lower = {name.lower(): value for name, value in answer.headers.items()}
        return {**lower, "status": str(answer.status_code)}, content

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Iterator[requests.Response]:
        """Make a request, and yield its answer with the body still to be read.

        What breaks off or is put off (503) is tried again, except with a Body, whose chunks come only once.
        """
        answer = self._send(method, path, query, headers, body)
        try:
            yield answer
        finally:
            answer.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | Body | None,
    ) -> requests.Response:
        left = 1 if isinstance(body, Body) else ATTEMPTS
        own = {"Role": self.role} if self.role else {}
        while True:
            left -= 1
            try:
                answer = self._session.request(
                    method,
                    self.url + quote(path),
                    params=query,
                    data=body,
                    headers={"Accept-Encoding": "identity", **own, **(headers or {})},
                    auth=self._signature,
                    timeout=(CONNECT, READ),
                    verify=self._verify,
                    allow_redirects=False,
                    stream=True,
                )
                if answer.status_code == 204 or method == "HEAD":
                    _beginning(answer)  # there is none, and the connection is free again
                if answer.status_code < 300:
                    return answer
                with answer:
                    refused = Refused(answer)
                if not left or refused.retry_after is None or refused.retry_after > LONGEST_WAIT:
                    raise refused
                pause(refused.retry_after)
            except requests.ConnectionError as error:
                # A connection that was kept open may have been closed at the other end meanwhile.
                if not left or not isinstance(error.args[0] if error.args else None, ProtocolError):
                    raise


def read(answer: requests.Response) -> Iterator[bytes]:
    """Yield the body of an answer, CHUNK bytes at a time; each must arrive within READ seconds."""
    while True:
        chunk, deadline = bytearray(), Deadline(READ)
        while len(chunk) < CHUNK:
            part = answer.raw.read1(CHUNK - len(chunk))
            if not part:
                break
            chunk += part
            if deadline.over:
                raise requests.ReadTimeout(f"{len(chunk)} bytes in {READ:.0f} seconds")
        if not chunk:
            return
        yield bytes(chunk)


class _Signature(AuthBase):
    """Signs each attempt anew, since a signature is that of its date; also keeps ~/.netrc out."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        date = formatdate(usegmt=True)
        request.headers["Date"] = date
        request.headers["Authorization"] = self._key.authorization(date)
        return request


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = bounded(HTTPConnection, lambda: READ)


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = bounded(HTTPSConnection, lambda: READ)


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def _authorities() -> str | bool:
    """Whose certificates are accepted: REQUESTS_CA_BUNDLE's, else this system's, else those that `requests` brings."""
    if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        return True  # `requests` looks there itself
    system = ssl.get_default_verify_paths()
    if system.cafile:
        return system.cafile
    if system.capath and any(Path(system.capath).glob("*.0")):
        return system.capath
    return True


def _beginning(answer: requests.Response) -> bytes:
    found = bytearray()
    with contextlib.suppress(Exception):  # the status says enough
        for chunk in read(answer):
            found += chunk
            if len(found) > LONGEST_ERROR:
                break
    return bytes(found)


def _off_by(date: str) -> float:
    """Seconds by which this machine's clock is off, going by an answer's Date header."""
    with contextlib.suppress(ValueError):
        return abs(time.time() - parsedate_to_datetime(date).timestamp())
    return 0.0
