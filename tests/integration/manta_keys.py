"""Keys for Manta, in the forms in which MANTA_PRIVATE_KEY may have them, and what the driver's environment is."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.manta_server import MantaServer

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
FORMS = {
    "pem": serialization.PrivateFormat.TraditionalOpenSSL,
    "pkcs8": serialization.PrivateFormat.PKCS8,
    "openssh": serialization.PrivateFormat.OpenSSH,
}


@cache
def private_key(kind: str, number: int = 0) -> Private:
    """A key that is made once: `rsa` or `ecdsa`, and another one for each number."""
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
        "MANTA_BUCKET": "/me/stor/mysql",
        "MANTA_PRIVATE_KEY": text(private_key("rsa")).replace("\n", "#"),
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": "127.0.0.1",
        **changes,
    }
