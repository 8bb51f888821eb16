"""What a primary has been watching for how long: kept between health runs, on the monotonic clock."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from manager.node import Node

FILE = "watched.json"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """For how many seconds each member has not been good, by server_uuid; commits have waited without one
    acknowledgement; A has been empty with semi-sync on; a restarted primary has waited for a member."""

    lost: Mapping[str, float] = field(default_factory=dict)
    stuck: float = 0.0
    empty: float = 0.0
    restarting: float = 0.0


@dataclass
class Watch:
    """The moments at which something began, by name; what has ended is forgotten."""

    since: dict[str, float] = field(default_factory=dict)
    acknowledged: int = -1

    def look(
        self,
        now: float,
        *,
        lost: Iterable[str],
        waiting: bool,
        acknowledged: int,
        empty: bool,
        restarting: bool,
    ) -> Watched:
        """Take in one look at the members, and return for how long each trouble has gone on. `now` in seconds."""
        lost_now = set(lost)
        active = {f"lost {uuid}" for uuid in lost_now}
        if waiting and acknowledged == self.acknowledged:
            active.add("stuck")
        active |= {name for name, on in (("empty", empty), ("restarting", restarting)) if on}
        self.since = {name: min(now, self.since.get(name, now)) for name in active}
        self.acknowledged = acknowledged

        def seconds(name: str) -> float:
            return now - self.since[name] if name in self.since else 0.0

        return Watched(
            lost={uuid: seconds(f"lost {uuid}") for uuid in lost_now},
            stuck=seconds("stuck"),
            empty=seconds("empty"),
            restarting=seconds("restarting"),
        )


def load(node: Node) -> Watch:
    """Return what the last run kept; nothing after a restart of the machine, or if there was no run."""
    try:
        content = json.loads((node.settings.run_dir / FILE).read_text())
        now = time.monotonic()
        since = {str(k): float(v) for k, v in content["since"].items() if float(v) <= now}
        return Watch(since=since, acknowledged=int(content["acknowledged"]))
    except (OSError, ValueError, LookupError, AttributeError):
        return Watch()


def forget(node: Node) -> None:
    """A node that is no primary watches nothing."""
    (node.settings.run_dir / FILE).unlink(missing_ok=True)


def save(node: Node, watch: Watch) -> None:
    """Keep it for the next run."""
    path = node.settings.run_dir / FILE
    temporary = path.with_name(f"{FILE}.{os.getpid()}")
    temporary.write_text(json.dumps({"since": watch.since, "acknowledged": watch.acknowledged}))
    os.replace(temporary, path)
