"""The `manta` driver: Joyent's Manta, an object store with directories.

An object is there when its whole body has arrived, and an upload that breaks off is forgotten by the server:
nothing is ever left over. Bodies stream, so memory stays the same whatever the size of a snapshot.
"""

from __future__ import annotations

import contextlib
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property

import requests
from urllib3.exceptions import HTTPError

from manager.errors import AutopilotError, ConfigError, ObjectMissing, StoreError
from manager.settings import MANTA, Settings
from manager.storage.base import Objects, Store, StoredObject, check_name
from manager.storage.manta_client import DIRECTORY, Body, Client, NoDirectory, Refused, read
from manager.storage.manta_key import MantaError

PAGE = 1000  # entries of a directory in one answer; 1024 is the server's limit
SLACK = 1 << 20  # bytes that an upload may have beyond `at_most`
SKEW = 240.0  # seconds; the server refuses a signature that is 300 s old or too new
OBJECT = {"Content-Type": "application/octet-stream"}


class MantaStore(Store):
    """Objects below the directory MANTA_BUCKET, which must exist; their own directories are made as needed."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        for name in MANTA:
            if getattr(self.settings, name.lower()) is None:
                raise ConfigError(f"BACKUP_DRIVER=manta needs {name}")
        self._bucket = self.settings.manta_bucket or ""

    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        path = self._path(name)
        with self._faults(name):
            self._present()
            for folder in self._folders(name):
                self._client.put_directory(folder)
        if isinstance(chunks, list | tuple):
            self._put_small(path, name, b"".join(chunks))
            return path
        headers = dict(OBJECT)
        if at_most > 0:
            # Without it the server refuses what is larger than its own default, about 5 GB.
            headers["max-content-length"] = str(at_most + SLACK)
        body = Body(chunks)
        try:
            with self._faults(name), self._client.open("PUT", path, headers=headers, body=body) as answer:
                stored = answer.headers.get("Computed-MD5")
        except BaseException:
            if body.failure is not None:
                raise body.failure from None
            raise
        self._check_stored(name, body.md5, stored)
        return path

    def _put_small(self, path: str, name: str, data: bytes) -> None:
        md5 = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        headers = {**OBJECT, "Content-MD5": md5}
        with self._faults(name), self._client.open("PUT", path, headers=headers, body=data) as answer:
            stored = answer.headers.get("Computed-MD5")
        self._check_stored(name, md5, stored)

    def _check_stored(self, name: str, sent: str, stored: str | None) -> None:
        if stored is None:
            # The server's answer where there is a directory: it thinks that the directory's headers are to change.
            raise StoreError(f"{name} was not stored: there is a directory {self._path(name)}")
        if stored != sent:
            self.delete(name)
            raise StoreError(f"{name} was damaged on its way to MANTA_URL={self._url}; it is removed")

    def get_stream(self, name: str) -> Iterator[bytes]:
        path = self._path(name)
        with contextlib.ExitStack() as opened:
            with self._faults(name):
                try:
                    answer = opened.enter_context(self._client.open("GET", path))
                except Refused as refused:
                    if refused.status == 404:
                        self._present()  # a mistyped MANTA_BUCKET is no missing object
                    raise
                self._no_directory(answer.headers, name)
            md5 = hashlib.md5(usedforsecurity=False)
            chunks = read(answer)
            while True:
                with self._faults(name):
                    chunk = next(chunks, b"")
                if not chunk:
                    break
                md5.update(chunk)
                yield chunk
        found = b64encode(md5.digest()).decode()
        if answer.headers.get("Content-MD5", found) != found:
            raise StoreError(f"{name} was damaged on its way from MANTA_URL={self._url}")

    def stat(self, name: str) -> StoredObject:
        path = self._path(name)
        with self._faults(name):
            try:
                with self._client.open("HEAD", path) as answer:
                    found = answer.headers
            except Refused as refused:
                if refused.status != 404:
                    self._present()  # such an answer has no body, this one's says why
                raise
            self._no_directory(found, name)
            written = parsedate_to_datetime(found["Last-Modified"]).timestamp()
            return StoredObject(name, int(found["Content-Length"]), written)

    def list(self, prefix: str) -> Objects:
        with self._faults(prefix):
            return sorted(self._below(prefix.rpartition("/")[0], prefix), key=lambda each: each.name)

    def _below(self, folder: str, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects in `folder` ("" is MANTA_BUCKET) and further down whose names begin with `prefix`."""
        try:
            entries = list(self._entries(f"{self._bucket}/{folder}".rstrip("/")))
        except (Refused, NoDirectory) as error:
            if isinstance(error, Refused) and error.status != 404:
                raise
            self._present()
            return
        for entry in entries:
            name = f"{folder}/{entry['name']}".lstrip("/")
            if entry["type"] == "directory":
                if f"{name}/".startswith(prefix):
                    yield from self._below(name, prefix)
            elif name.startswith(prefix):
                written = datetime.fromisoformat(str(entry["mtime"])).timestamp()
                yield StoredObject(name, int(entry["size"]), written)

    def _entries(self, path: str) -> Iterator[Mapping[str, str | int]]:
        marker: str | None = None
        while True:
            entries = self._client.list_directory(path, limit=PAGE, marker=marker)
            fresh = [entry for entry in entries if entry["name"] != marker]  # a page begins with its marker
            yield from fresh
            if len(entries) < PAGE or not fresh:
                return
            marker = fresh[-1]["name"]

    def delete(self, name: str) -> None:
        with self._faults(name):
            try:
                self._client.delete_object(self._path(name))
            except Refused as refused:
                if refused.status != 404 and refused.code != "DirectoryNotEmpty":
                    raise

    def clear_leftovers(self, ours: Callable[[str], bool]) -> int:
        with self._faults(self._bucket):
            self._present()
        return 0

    @property
    def _url(self) -> str:
        return self.settings.manta_url or ""

    @cached_property
    def _client(self) -> Client:
        return Client(self.settings)

    def _path(self, name: str) -> str:
        return f"{self._bucket}/{check_name(name)}"

    def _folders(self, name: str) -> Iterator[str]:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            yield "/".join((self._bucket, *parts[:count]))

    def _present(self) -> None:
        """Ask for MANTA_BUCKET: a directory that is not there may be another one than was meant, and is not made.

        Asked before a stream is begun too: a server that refuses ends the connection in the middle of the body.
        """
        try:
            with self._client.open("GET", self._bucket, query={"limit": "1"}) as answer:
                kind = answer.headers.get("Content-Type", "")
                if DIRECTORY in kind:
                    next(read(answer), b"")  # one line, and then the connection is free again
        except Refused as refused:
            if refused.status != 404:
                raise
            raise StoreError(
                f"MANTA_BUCKET={self._bucket} does not exist; create it, or correct it"
            ) from None
        if DIRECTORY not in kind:
            raise StoreError(f"MANTA_BUCKET={self._bucket} is no directory; correct it")

    def _no_directory(self, headers: Mapping[str, str], name: str) -> None:
        if DIRECTORY in headers.get("Content-Type", ""):
            raise self._missing(name)

    def _missing(self, name: str) -> ObjectMissing:
        return ObjectMissing(f"{name} is not in MANTA_BUCKET={self._bucket}")

    @contextlib.contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        """The one place where the libraries' errors become ours."""
        try:
            yield
        except Refused as refused:
            raise self._refused(refused, name) from None
        except (HTTPError, OSError) as error:  # `requests` raises nothing but OSError
            raise self._no_answer(error) from None
        except (MantaError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"MANTA_URL={self._url} does not answer as Manta does: {error!r:.200}") from None

    def _no_answer(self, error: Exception) -> StoreError:
        text = repr(error) + repr(error.__context__)
        if "NameResolution" in text:
            return StoreError(f"the name of Manta's server cannot be resolved: check MANTA_URL={self._url}")
        if isinstance(error, requests.exceptions.SSLError):
            return StoreError(
                f"the certificate of MANTA_URL={self._url} is not accepted; REQUESTS_CA_BUNDLE can name its authority"
            )
        if "CA certificate bundle" in text:
            return StoreError("REQUESTS_CA_BUNDLE names no file and no directory that is there")
        if isinstance(error, requests.ConnectTimeout) or "NewConnectionError" in text:
            why = "connection refused" if "refused" in text else "no connection"
            return StoreError(f"no server answers at MANTA_URL={self._url}: {why}")
        if isinstance(error, requests.ReadTimeout) or "timed out" in text:
            return StoreError(f"MANTA_URL={self._url} does not answer in time")
        return StoreError(f"the connection to MANTA_URL={self._url} failed: {type(error).__name__}")

    def _refused(self, refused: Refused, name: str) -> AutopilotError:
        settings = self.settings
        where = f"{name} in MANTA_BUCKET={self._bucket}"
        if refused.code == "InvalidHeader" and refused.off_by > SKEW:
            return StoreError(
                f"this machine's clock and that of MANTA_URL are {refused.off_by:.0f} s apart, which Manta refuses"
            )
        if refused.status == 404 and refused.code in ("", "ResourceNotFound"):
            return self._missing(name)
        if refused.retry_after is not None:
            return StoreError(
                f"MANTA_URL={self._url} puts {name} off: {refused.text} (503, Retry-After {refused.retry_after:.0f} s)"
            )
        owner = f"MANTA_USER={settings.manta_user}"
        if settings.manta_subuser:
            owner = f"MANTA_SUBUSER={settings.manta_subuser} of {owner}"
        known = {
            "KeyDoesNotExist": f"{owner} has no such key as MANTA_PRIVATE_KEY; add it to the account, or correct it",
            "InvalidSignature": f"MANTA_PRIVATE_KEY is not the key that {owner} has: the signature is refused",
            "AccountDoesNotExist": f"there is no account MANTA_USER={settings.manta_user}",
            "AccountBlocked": f"the account MANTA_USER={settings.manta_user} is blocked",
            "UserDoesNotExist": f"there is no {owner}",
            "InvalidRole": f"{owner} has no such role as MANTA_ROLE={settings.manta_role}",
            "SecureTransportRequired": f"MANTA_URL={self._url} must be an https URL",
            "DirectoryDoesNotExist": f"the directory of {where} is gone",
            "MaxContentLengthExceeded": f"{name} is larger than was expected: {refused.text}",
            "NotEnoughSpace": f"Manta has no room for {where}: {refused.text}",
        }
        for code in ("AuthorizationFailed", "NoMatchingRoleTag", "MissingPermission"):
            known[code] = f"{owner} may not use {where}; it must read, write and list there (MANTA_ROLE)"
        answer = f"{refused.status} {refused.code} {refused.text}".strip()
        return StoreError(known.get(refused.code) or f"Manta refuses {where}: {answer}")
