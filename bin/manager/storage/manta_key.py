"""Manta's key: read as MANTA_PRIVATE_KEY gives it, and put to use by the SDK's signer.

The SDK also loads an HTTP library, at the one version that it takes (httplib2 0.11.3: CVE-2020-11078,
CVE-2021-21240, and no https from Python 3.12 on), and an SSH library for agents. Nothing here runs a line of
either: they are not installed (LEFT_OUT in the Makefile), and empty modules stand in while the SDK is loaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from manager.errors import ConfigError
from manager.settings import Settings

_STAND_INS = {"httplib2": "Http", "paramiko": "Agent", "paramiko.message": "Message"}


@contextlib.contextmanager
def _without_libraries() -> Iterator[None]:
    """Let the SDK's imports of what it will not need succeed, and leave no trace of that."""
    before = {name: sys.modules.get(name) for name in _STAND_INS}
    for name, attribute in _STAND_INS.items():
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], attribute, object)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


with _without_libraries():
    from manta.auth import PrivateKeySigner, fingerprint_from_ssh_pub_key
    from manta.client import MantaClient
    from manta.errors import MantaError

__all__ = ["Key", "MantaClient", "MantaError", "read_key"]


class Key:
    """A private key, and the account (or user of an account) that it speaks for."""

    def __init__(self, owner: str, fingerprint: str, pem: bytes) -> None:
        self.fingerprint = fingerprint
        self._id = f"/{owner}/keys/{fingerprint}"
        self._signer = PrivateKeySigner(fingerprint, pem)

    def authorization(self, date: str) -> str:
        """Return the Authorization header of a request whose Date header is `date`."""
        algorithm, _, signature = self._signer.sign(f"date: {date}")
        return f'Signature keyId="{self._id}",algorithm="{algorithm}",signature="{signature.decode()}"'


def read_key(settings: Settings) -> Key:
    """Return the key of MANTA_PRIVATE_KEY; ConfigError if it is none of Manta's, or not that of MANTA_KEY_ID."""
    assert settings.manta_private_key is not None
    private = _parse(settings.manta_private_key.value)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    fingerprint: str = fingerprint_from_ssh_pub_key(public.decode())
    if settings.manta_key_id and settings.manta_key_id != fingerprint:
        raise ConfigError(
            f"MANTA_KEY_ID is {settings.manta_key_id}, and MANTA_PRIVATE_KEY is another key: {fingerprint}"
        )
    # The signer reads this form and no other.
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    owner = "/".join(name for name in (settings.manta_user, settings.manta_subuser) if name)
    return Key(owner, fingerprint, pem)


def _parse(text: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    data = text.replace("#", "\n").strip().encode() + b"\n"
    load = serialization.load_pem_private_key
    if data.startswith(b"-----BEGIN OPENSSH"):
        load = serialization.load_ssh_private_key
    try:
        key = load(data, password=None)
    except TypeError:  # what the library raises for want of a passphrase
        fault = "has a passphrase, which no hook can type: give a key without one"
    except Exception:  # of several kinds, and nothing of their texts is to be shown
        fault = "is no private key in PEM or OpenSSH format with `#` for its newlines"
    else:
        if isinstance(key, rsa.RSAPrivateKey):
            return key
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__
        fault = f"is of the kind {kind}: Manta takes RSA, and ECDSA with the curve P-256"
    raise ConfigError(f"MANTA_PRIVATE_KEY {fault}")
