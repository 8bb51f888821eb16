"""The stores of `make bench-snapshot`: what the hooks need for each, and what its own client does with the same object.

* local: `cp` into the directory, and out of it
* s3: SeaweedFS, and boto3's `upload_file` and `download_file` (what `aws s3 cp` runs: several threads)
* manta: the tests' own server, and curl with a signed header, which streams
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from manager.settings import load
from manager.storage.manta_key import read_key
from sandbox import servers
from sandbox.packages import Packages
from tests.integration import manta_stores
from tests.integration.manta_server import manta

OBJECT = "client"  # under which a client stores
S3_CLIENT = """
import json, os, sys, boto3
verb, bucket, name, file = sys.argv[1:]
client = boto3.client("s3", **json.loads(os.environ["S3_CLIENT"]))
client.upload_file(file, bucket, name) if verb == "put" else client.download_file(bucket, name, file)
"""


@dataclass(frozen=True)
class Target:
    """A store that runs: the hooks' settings, and its client's commands for an object in a file."""

    settings: Mapping[str, str]
    put: list[str]
    get: list[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def local(packages: Packages, directory: Path, address: str, source: Path, copy: Path) -> Iterator[Target]:
    """A directory."""
    store = directory / "store"
    store.mkdir(parents=True)
    yield Target(
        {"BACKUP_DRIVER": "local", "STORAGE_DIR": str(store)},
        ["cp", str(source), str(store / OBJECT)],
        ["cp", str(store / OBJECT), str(copy)],
    )


@contextlib.contextmanager
def s3(packages: Packages, directory: Path, address: str, source: Path, copy: Path) -> Iterator[Target]:
    """SeaweedFS at `address`."""
    with servers.s3_server(packages, directory, address=address) as server:
        access = {
            "endpoint_url": server.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": server.access_key,
            "aws_secret_access_key": server.secret_key,
        }
        bucket = server.buckets[0]
        client = [str(packages.python), "-c", S3_CLIENT]
        yield Target(
            {
                "BACKUP_DRIVER": "s3",
                "AWS_BUCKET": bucket,
                "AWS_ACCESS_KEY": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_ENDPOINT_URL": server.endpoint,
            },
            [*client, "put", bucket, OBJECT, str(source)],
            [*client, "get", bucket, OBJECT, str(copy)],
            {"S3_CLIENT": json.dumps(access)},
        )


@contextlib.contextmanager
def manta_server(
    packages: Packages, directory: Path, address: str, source: Path, copy: Path
) -> Iterator[Target]:
    """The tests' Manta, which listens on 127.0.0.1 alone."""
    with manta(directory) as server:
        manta_stores.account(server)
        settings = manta_stores.environment(server)
        date = formatdate(usegmt=True)  # a signature is good for five minutes
        signature = read_key(load(settings)).authorization(date)
        client = ["curl", "-sSf", "-H", f"Date: {date}", "-H", f"Authorization: {signature}"]
        url = f"{server.url}{manta_stores.BUCKET}/{OBJECT}"
        yield Target(settings, [*client, "-T", str(source), url], [*client, "-o", str(copy), url])


STORES = {"local": local, "s3": s3, "manta": manta_server}
