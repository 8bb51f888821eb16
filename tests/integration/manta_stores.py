"""Stores in the tests' Manta: keys in all forms, the driver's environment, and what its tests do all over again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from manager.errors import StoreError
from manager.settings import load
from manager.storage import Store, open_store
from tests.integration.manta_server import MantaServer

BUCKET = "/me/stor/mysql"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
FORMS = {
    "pem": serialization.PrivateFormat.TraditionalOpenSSL,
    "pkcs8": serialization.PrivateFormat.PKCS8,
    "openssh": serialization.PrivateFormat.OpenSSH,
}


def private_key(kind: str, number: int = 0) -> Private:
    """A key that is made once: `rsa` or `ecdsa`, and another one for each number."""
    return _made(kind, number)


@cache
def _made(kind: str, number: int) -> Private:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def text(key: Private, form: str = "pem") -> str:
    """The key as a file would hold it."""
    options = (serialization.Encoding.PEM, FORMS[form], serialization.NoEncryption())
    return key.private_bytes(*options).decode()


def environment(server: MantaServer, **changes: str) -> dict[str, str]:
    """What a node needs for account `me` of `server`."""
    return {
        "BACKUP_DRIVER": "manta",
        "MANTA_URL": server.url,
        "MANTA_USER": "me",
        "MANTA_BUCKET": BUCKET,
        "MANTA_PRIVATE_KEY": text(private_key("rsa")).replace("\n", "#"),
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": "127.0.0.1",
        **changes,
    }


def account(server: MantaServer) -> None:
    """`me`, with a directory for snapshots, and a user `backup` who may use it in the role `writer`."""
    me = server.add_account("me", private_key("rsa").public_key(), private_key("ecdsa").public_key())
    me.users["backup"] = [private_key("rsa", 2).public_key()]
    me.roles |= {"writer": {"backup"}, "reader": set()}
    server.make_directory(BUCKET)


def store_with(server: MantaServer, **changes: str) -> Store:
    return open_store(load(environment(server, **changes)))


def pieces(count: int, size: int = 1 << 20) -> Iterator[bytes]:
    block = os.urandom(size)
    for _ in range(count):
        yield block


def one_line(call: Callable[[], object], kind: type[Exception] = StoreError) -> str:
    """What a call is refused with."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert "PRIVATE KEY-" not in line
    return line


def every_verb(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.put_bytes("fault", b"x"),
        lambda: store.put_stream("fault", pieces(3), at_most=3 << 20),
        lambda: list(store.get_stream("fault")),
        lambda: store.stat("fault"),
        lambda: store.list("fault"),
        lambda: store.delete("fault"),
        lambda: store.clear_leftovers(lambda name: True),
    ]
