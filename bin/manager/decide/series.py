"""Which series of MySQL may replicate from which, and start on whose data: pure functions of version texts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from manager.mysql.dialect import series

UPGRADES_ITSELF = (8, 0, 16)
"""From here on mysqld brings an older data directory up to date at its start; before, only mysql_upgrade does."""


def name(version: str) -> str:
    """Return a version's series as people write it."""
    return ".".join(map(str, series(version)))


def cannot_follow(replica: str, source: str) -> str:
    """Return why a server of the version `replica` never replicates from one of `source`; nothing if it may."""
    if series(replica) >= series(source):
        return ""
    return f"MySQL {name(replica)} cannot follow {name(source)}: upgrade it"


def left_behind(chosen: str, versions: Mapping[str, str]) -> str:
    """Return why a hand-over to `chosen` is refused; nothing if all in `versions` (node: version) can follow it."""
    older = [
        f"{node} (MySQL {name(version)})"
        for node, version in sorted(versions.items())
        if cannot_follow(version, versions[chosen])
    ]
    if not older:
        return ""
    return f"{chosen} is MySQL {name(versions[chosen])}, which cannot be followed by {', '.join(older)}: upgrade first"


def following(versions: Mapping[str, str], primary: str) -> dict[str, str]:
    """Return those of `versions` (node: version) that can follow a primary of that version."""
    return {node: version for node, version in versions.items() if not cannot_follow(version, primary)}


def cannot_lead(chosen: str, versions: Mapping[str, str], primary: str) -> str:
    """Return why `chosen` does not become the primary after one of the version `primary`; nothing if it may.

    `versions` are those of all other nodes, it among them. Who cannot follow even now is left behind already.
    """
    return cannot_follow(versions[chosen], primary) or left_behind(chosen, following(versions, primary))


def oldest(versions: Mapping[str, str]) -> frozenset[str]:
    """Return the nodes of the oldest series among `versions` (node: version)."""
    lowest = min(map(series, versions.values()), default=(0, 0))
    return frozenset(node for node, version in versions.items() if series(version) == lowest)


def cannot_take_over(data: str, installed: str) -> str:
    """Return why mysqld of the version `installed` is not to be started on what one of `data` has written.

    Steps that MySQL supports (manual, "Upgrade Paths"): from one LTS series to the next, and within what leads there.
    """
    mine, theirs = series(installed), series(data)
    if mine == theirs:
        return ""
    what = f"MySQL {name(installed)} cannot take over a data directory of {name(data)}"
    if mine < theirs:
        return f"{what}: there is no way back to an older series"
    if not _upgrades_itself(installed):
        return f"{what} without mysql_upgrade: start it on an empty one, which gets a copy"
    between = (8, 4) if mine > (8, 4) else (8, 0) if mine > (8, 0) else (5, 7)
    if theirs >= between:
        return ""
    return (
        f"{what} without {between[0]}.{between[1]} in between; or start it on an empty one, which gets a copy"
    )


def _upgrades_itself(version: str) -> bool:
    release = re.match(r"\d+\.\d+\.(\d+)", version)
    return (*series(version), int(release[1]) if release else 0) >= UPGRADES_ITSELF
