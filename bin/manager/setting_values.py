"""How the text of a setting becomes a value (SPEC 4).

Each parser takes the text, never empty, and returns the value; it raises ValueError with what is wrong
in a few words, to which `settings.load` adds the variable's name. The text of a secret is never repeated.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from manager.age_key import is_secret_key

_COMMENT = re.compile(r"\s#.*", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SIZE = re.compile(r"([0-9]+)\s*([KMG])?B?", re.IGNORECASE)
_SERVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_NODE = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_PLUGIN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FINGERPRINT = re.compile(r"(?:MD5:)?((?:[0-9a-f]{2}:){15}[0-9a-f]{2})", re.IGNORECASE)
_MANTA_NAME = re.compile(r"[A-Za-z0-9_.@+-]+")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_WORDS = {
    "yes": True,
    "true": True,
    "on": True,
    "1": True,
    "no": False,
    "false": False,
    "off": False,
    "0": False,
}
# Names that MySQL, or this project, has for itself.
_OWN_USERS = frozenset({"root", "autopilot", "mysql.sys", "mysql.session", "mysql.infoschema"})
_OWN_SCHEMAS = frozenset({"mysql", "sys", "information_schema", "performance_schema", "autopilot"})


@dataclass(frozen=True)
class Secret:
    """A value that no log, error or repr shows; `.value` is the text itself."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__


def clean(text: str) -> str:
    """Return `text` without its comment (`#` after white space) and outer white space."""
    return _COMMENT.sub("", text).strip()


def expand(text: str, names: Mapping[str, str]) -> str:
    """Return `text` with $NAME and ${NAME} replaced; a name that is not set stays as it is written."""
    return _REFERENCE.sub(lambda match: names.get(match[1] or match[2], match[0]), text)


def text(value: str) -> str:
    """Any text without control characters."""
    if not value.isprintable():
        raise ValueError("contains control characters")
    return value


def boolean(value: str) -> bool:
    """yes, true, on, 1 or no, false, off, 0."""
    try:
        return _WORDS[value.lower()]
    except KeyError:
        raise ValueError(f"must be yes or no, not {value!r}") from None


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""
    wanted = (
        f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    )

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value):
            raise ValueError(f"must be {wanted}, not {value!r}")
        number = int(value)
        if number < least or (most is not None and number > most):
            raise ValueError(f"must be {wanted}, not {value!r}")
        return number

    return parse


def size(least: int) -> Callable[[str], int]:
    """Return a parser of megabytes, or of a number with K, M or G, that gives bytes; at least `least` megabytes."""

    def parse(value: str) -> int:
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"must be a number of megabytes, or a number with K, M or G, not {value!r}")
        number = int(match[1]) * _UNITS[(match[2] or "M").upper()]
        if number < least << 20:
            raise ValueError(f"must be at least {least}M, not {value!r}")
        return number

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of `choices`."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {value!r}")
        return value

    return parse


def level(value: str) -> str:
    """A level name of the standard library, in any case."""
    return one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")(value.upper())


def path(value: str) -> Path:
    """An absolute path."""
    result = Path(text(value))
    if not result.is_absolute():
        raise ValueError(f"must be an absolute path, not {value!r}")
    return result


def file(value: str) -> str:
    """The absolute path of a file that is there, as text."""
    if not path(value).is_file():
        raise ValueError(f"there is no file {value!r}")
    return value


def user(value: str) -> str:
    """A MySQL user name: at most 32 characters (manual, 8.2.1 Account User Names and Passwords)."""
    if len(text(value)) > 32:
        raise ValueError("must have at most 32 characters")
    if value.lower() in _OWN_USERS:
        raise ValueError(f"must not be {value!r}, which MySQL or Autopilot uses itself")
    return value


def schema(value: str) -> str:
    """The name of a database: at most 64 characters (manual, 11.2.1 Identifier Length Limits)."""
    if len(text(value)) > 64:
        raise ValueError("must have at most 64 characters")
    if value.lower() in _OWN_SCHEMAS:
        raise ValueError(f"must not be {value!r}, which MySQL or Autopilot uses itself")
    return value


def secret(value: str) -> Secret:
    """Any text, verbatim."""
    if "\0" in value:
        raise ValueError("contains a NUL character")
    return Secret(value)


def replication_secret(value: str) -> Secret:
    """At most 32 characters: what CHANGE REPLICATION SOURCE takes for a password."""
    if len(value) > 32:
        raise ValueError("must have at most 32 characters, the limit of MySQL's replication")
    return secret(value)


def age_keys(value: str) -> tuple[Secret, ...]:
    """Secret keys of age with white space between them; lines that begin with `#`, as age-keygen's do, are left out."""
    lines = [line for line in value.splitlines() if not line.lstrip().startswith("#")]
    keys = " ".join(lines).split()
    if not keys:
        raise ValueError("holds no key: it takes secret keys of age (AGE-SECRET-KEY-1...)")
    for number, key in enumerate(keys, 1):
        if not is_secret_key(key):
            raise ValueError(f"number {number} of {len(keys)} is no secret key of age (AGE-SECRET-KEY-1...)")
    return tuple(Secret(key) for key in keys)


def service(value: str) -> str:
    """A service name that is a DNS label, also with `-primary` after it (63 characters in all)."""
    if not _SERVICE.fullmatch(value) or len(value) > 55:
        raise ValueError(f"must be letters, digits and inner hyphens, at most 55 characters, not {value!r}")
    if value.endswith(("-primary", "-node")):
        raise ValueError(f"must not end in -primary or -node, the services of another cluster: {value!r}")
    return value


def node(value: str) -> str:
    """A node's name; it becomes part of service ids, session names and account names."""
    if not _NODE.fullmatch(value) or len(value) > 128:
        raise ValueError(
            f"must be letters, digits, dots, hyphens and underscores, at most 128, not {value!r}"
        )
    return value


def host(value: str) -> str:
    """A host name or an IP address, without a port."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not _HOST.fullmatch(value):
            raise ValueError(f"must be a host name or an address, without a port, not {value!r}") from None
    return value


def endpoint(value: str) -> tuple[str, int]:
    """`host`, `host:port` or `[IPv6]:port`; returns the host and the port (8500 if none is given)."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/\s]+))(?::([0-9]{1,5}))?", value)
    if match is None:
        raise ValueError(f"must be HOST or HOST:PORT, not {value!r}")
    port = whole(1, 65535)(match[3]) if match[3] else 8500
    return host(match[1] or match[2]), port


def key(value: str) -> str:
    """A key of Consul's KV."""
    if value.startswith("/") or not re.fullmatch(r"[!-~]{1,512}", value):
        raise ValueError(
            f"must be a Consul key: no leading slash, no white space, at most 512, not {value!r}"
        )
    return value


def backup_name(value: str) -> str:
    """A file name, in which directives of strftime may stand."""
    try:
        shown = time.strftime(text(value), time.gmtime(0))
    except ValueError:
        shown = ""
    if not shown or "/" in shown or shown.startswith("."):
        raise ValueError(f"must be a file name with directives of strftime, not {value!r}")
    return value


def driver(value: str) -> str:
    """One of the store's drivers, or a class of the user's own."""
    if value not in ("manta", "s3", "local") and not _PLUGIN.fullmatch(value):
        raise ValueError(f"must be manta, s3, local or module:Class, not {value!r}")
    return value


def manta_name(value: str) -> str:
    """The name of an account of Manta's, or of a user under one."""
    if not _MANTA_NAME.fullmatch(value):
        raise ValueError(f"must be letters, digits and any of _ . @ + -, not {value!r}")
    return value


def manta_roles(value: str) -> str:
    """Names of roles, with commas between them."""
    if not all(_MANTA_NAME.fullmatch(name.strip()) for name in value.split(",")):
        raise ValueError(f"must be names of roles with commas between them, not {value!r}")
    return value


def manta_directory(value: str) -> str:
    """The whole path of a directory in Manta."""
    parts = text(value).rstrip("/").split("/")
    if len(parts) < 3 or parts[0] or any(part in ("", ".", "..") for part in parts[1:]):
        raise ValueError(f"must be the path of a directory, such as /me/stor/mysql, not {value!r}")
    return "/".join(parts)


def fingerprint(value: str) -> str:
    """The md5 fingerprint of a key, which ssh-keygen shows with `MD5:` before it; returns it without."""
    match = _FINGERPRINT.fullmatch(value)
    if match is None:
        raise ValueError(f"must be an md5 fingerprint, 16 pairs of hex digits with colons, not {value!r}")
    return match[1].lower()


def region(value: str) -> str:
    """An AWS region; `us-standard` is the old name of us-east-1."""
    return "us-east-1" if value == "us-standard" else text(value)


def url(value: str) -> str:
    """An http or https URL with a host and without a password in it."""
    parts = urlsplit(text(value))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("must be an http:// or https:// URL without a user name or a password")
    return value
