"""Names of snapshots, from BACKUP_NAME."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from manager.errors import ConfigError, StoreError
from manager.settings import Settings
from manager.storage.base import check_name

MANIFEST_SUFFIX = ".manifest.json"
SUFFIX = "-%Y-%m-%dT%H-%M-%SZ"
_NUMBERS = frozenset("YmdHMSfjyGguVwUWCeklsI")


def snapshot_name(settings: Settings, now: float | datetime) -> str:
    """Return the name of a snapshot taken at `now` (epoch seconds, or a time with its zone).

    BACKUP_NAME is formatted in UTC. One that does not tell two seconds apart gets the whole time as a suffix,
    so that no good object is ever overwritten. ConfigError if the result cannot be a name.
    """
    at = now if isinstance(now, datetime) else datetime.fromtimestamp(now, UTC)
    name = _format(settings.backup_name, at)
    if name == _format(settings.backup_name, at + timedelta(seconds=1)):
        name = _format(settings.backup_name + SUFFIX, at)
    try:
        return check_name(name)
    except StoreError as error:
        raise ConfigError(f"BACKUP_NAME={settings.backup_name}: {error}") from None


def is_ours(settings: Settings, name: str) -> bool:
    """True if `name` is one that BACKUP_NAME makes at some time: an object or a manifest of this service."""
    stem = f"{_pattern(settings.backup_name)}({_pattern(SUFFIX)})?"
    return re.fullmatch(stem, name.removesuffix(MANIFEST_SUFFIX)) is not None


def fixed_prefix(settings: Settings) -> str:
    """The part of BACKUP_NAME that is the same in every name."""
    return settings.backup_name.partition("%")[0]


def manifest_name(snapshot_id: str) -> str:
    """The name under which a snapshot's manifest is stored, beside the snapshot."""
    return snapshot_id + MANIFEST_SUFFIX


def _format(template: str, at: datetime) -> str:
    return at.astimezone(UTC).strftime(template)


def _pattern(template: str) -> str:
    parts = re.split(r"%([-_0^#EO]?.)", template)
    parts[0::2] = [re.escape(text) for text in parts[0::2]]
    parts[1::2] = [_directive(letter[-1]) for letter in parts[1::2]]
    return "".join(parts)


def _directive(letter: str) -> str:
    if letter == "%":
        return "%"
    return "[0-9]+" if letter in _NUMBERS else "[^/]+?"
