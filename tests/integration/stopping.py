"""Stores whose hook stops itself (SIGSTOP) at one point of a snapshot's life, so that a test can do there what it will.

They are the built-in drivers; $STOP_AT names the point. $STORE_READ shortens how long they wait for a store, in
seconds, and by $STORE_SKEW seconds this machine's clock is fast, as S3 sees it.
"""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import timedelta

from botocore import auth

from manager.storage import manta_client, s3, s3_connection
from manager.storage.base import Objects, Store
from manager.storage.local import LocalStore
from manager.storage.manta import MantaStore

POINTS = (
    "asked",  # the store, before anything is copied
    "copying",  # the server makes its copy: no driver is at work, the test watches for that
    "opened",  # the copy is there, nothing of it has gone to the store
    "1",  # so many bytes have
    "10000000",
    "30000000",
    "sent",  # all bytes have, and the store does not know that there are no more
    "object",  # the object is complete, its manifest is not begun
    "manifest",  # the manifest is there, and not recorded
    "tidying",  # it is recorded, and older ones are looked for
)

if "STORE_READ" in os.environ:
    manta_client.READ = s3_connection.READ = float(os.environ["STORE_READ"])
    s3.LIMITS = s3.LIMITS.merge(s3.Config(read_timeout=s3_connection.READ))

if "STORE_SKEW" in os.environ:
    right = auth.get_current_datetime
    auth.get_current_datetime = lambda: right() + timedelta(seconds=float(os.environ["STORE_SKEW"]))


class Stopping(Store):
    """What comes before the driver in each of the classes below."""

    stored = False

    def at(self, point: str) -> None:
        """Stop here, once, if this is the point."""
        if os.environ.get("STOP_AT") == point:
            del os.environ["STOP_AT"]
            os.kill(os.getpid(), signal.SIGSTOP)

    def list(self, prefix: str) -> Objects:
        self.at("tidying" if self.stored else "asked")
        return super().list(prefix)

    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        if not isinstance(chunks, list):
            self.at("opened")
            chunks = self._followed(chunks)
        path = super().put_stream(name, chunks, at_most=at_most)
        self.stored = isinstance(chunks, list)
        self.at("manifest" if self.stored else "object")
        return path

    def _followed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        sent = 0
        for chunk in chunks:
            yield chunk
            sent += len(chunk)
            point = os.environ.get("STOP_AT", "")
            if point.isdigit() and sent >= int(point):
                self.at(point)
        self.at("sent")


class Local(Stopping, LocalStore):
    pass


class S3(Stopping, s3.S3Store):
    pass


class Manta(Stopping, MantaStore):
    pass


class Eager:
    """A driver of somebody's own that asks its store as soon as it is made, and takes its time for that."""

    def __init__(self) -> None:
        urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"], timeout=5.0).close()

    def put_backup(self, backup_id: str, infile: str) -> None:
        raise NotImplementedError

    def get_backup(self, backup_id: str) -> None:
        raise NotImplementedError
