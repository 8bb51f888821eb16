"""Who may do what in the tests' Manta: signatures really verified, dates, keys, users and roles."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Caller = tuple[str, str | None]  # an account, and its user if it is one
SKEW = 300
HASHES = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}
ALGORITHMS = {"rsa-sha1", "rsa-sha256", "ecdsa-sha256"}
SIGNATURE = re.compile(
    r'Signature keyId="([^"]+)",algorithm="([^"]+)"(?:,headers="date")?,signature="([^"]+)"'
)


class Failure(Exception):
    """An answer with an error."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.headers = status, code, message, headers


def fingerprint(key: Public) -> str:
    """The md5 fingerprint under which an account knows a key."""
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    blob = base64.b64decode(key.public_bytes(*form).split()[1])
    return hashlib.md5(blob).digest().hex(":")


@dataclass
class Account:
    """Keys of the account itself, keys of its users, and which users each of its roles has."""

    keys: list[Public] = field(default_factory=list)
    users: dict[str, list[Public]] = field(default_factory=dict)
    roles: dict[str, set[str]] = field(default_factory=dict)


def authenticate(headers: Mapping[str, str], accounts: Mapping[str, Account], now: float) -> Caller | None:
    """Who signed a request; None if it is not signed."""
    given = headers.get("Authorization")
    if given is None:
        return None
    match = SIGNATURE.fullmatch(given)
    date = headers.get("Date", "")
    if match is None:
        raise Failure(400, "InvalidHeader", "Invalid Signature Authorization header")
    try:
        skew = abs(parsedate_to_datetime(date).timestamp() - now)
    except ValueError:
        raise Failure(400, "InvalidHeader", "Invalid Date header") from None
    if skew > SKEW:
        raise Failure(400, "InvalidHeader", f"Invalid Signature: clock skew of {skew:.0f}s > {SKEW}s")
    key_id, algorithm, signature = match.groups()
    if algorithm.lower() not in ALGORITHMS:
        raise Failure(401, "InvalidAlgorithm", f"{algorithm} is not a supported signing algorithm")
    parts = key_id.split("/")
    if len(parts) not in (4, 5) or parts[-2] != "keys" or parts[0] or not all(parts[1:]):
        raise Failure(403, "InvalidKeyId", "the KeyId token you provided is invalid")
    name, user = parts[1], parts[2] if len(parts) == 5 else None
    account = accounts.get(name)
    if account is None:
        raise Failure(403, "AccountDoesNotExist", f"{name} does not exist")
    if user is not None and user not in account.users:
        raise Failure(403, "UserDoesNotExist", f"{user} is not a user of {name}")
    keys = account.keys if user is None else account.users[user]
    key = next((one for one in keys if fingerprint(one) == parts[-1]), None)
    if key is None:
        raise Failure(403, "KeyDoesNotExist", f"{key_id} does not exist")
    if not _signed(key, algorithm.lower(), signature, f"date: {date}".encode()):
        raise Failure(403, "InvalidSignature", "The signature we calculated does not match the one you sent")
    return name, user


def _signed(key: Public, algorithm: str, signature: str, text: bytes) -> bool:
    kind, _, name = algorithm.partition("-")
    try:
        raw = base64.b64decode(signature, validate=True)
        if kind == "rsa" and isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, text, padding.PKCS1v15(), HASHES[name]())
            return True
        if kind == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
            key.verify(raw, text, ec.ECDSA(HASHES[name]()))
            return True
    except (InvalidSignature, ValueError):
        pass
    return False


def authorize(caller: Caller | None, accounts: Mapping[str, Account], path: str, role: str) -> None:
    """Let an account use what is its own, and a user of it what a role that it takes is for: all of that."""
    owner = path.split("/")[1]
    if caller is None:
        raise Failure(403, "AuthorizationFailed", f"anonymous is not allowed to access {path}")
    name, user = caller
    roles = accounts[name].roles
    taken = [one.strip() for one in role.split(",") if one.strip()]
    for one in taken:
        if one not in roles or (user is not None and user not in roles[one]):
            raise Failure(409, "InvalidRole", f'Role "{one}" is invalid.')
    if name != owner:
        raise Failure(403, "AuthorizationFailed", f"{name} is not allowed to access {path}")
    if user is not None and not taken:
        raise Failure(403, "NoMatchingRoleTag", "None of your active roles are present on the resource.")
