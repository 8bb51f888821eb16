"""What an operator alarms on: which metrics there are, and how hooks keep them in RUN_DIR.

No metric has labels: ContainerPilot's telemetry knows none, and both pilots show the same ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from manager.errors import Busy
from manager.flock import flocked

PREFIX = "autopilot_mysql_"
FILE = "metrics.json"
HOOKS = ("pre_start", "health", "on_change", "snapshot_task", "rescue", "pre_stop")


@dataclass(frozen=True)
class Metric:
    """One metric, by its name after PREFIX; a counter's value is added to, a gauge's is set."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str


def _of_hook(hook: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{hook}_runs_total", "counter", f"Runs of the hook {hook}."),
        Metric(f"{hook}_errors_total", "counter", f"Runs of {hook} that ended in an error."),
        Metric(f"{hook}_seconds_total", "counter", f"Time spent in {hook}."),
    )


METRICS: tuple[Metric, ...] = (
    Metric("primary", "gauge", "1 if this node is the primary and serves."),
    Metric("replica", "gauge", "1 if this node is a healthy replica."),
    Metric("health_timestamp_seconds", "gauge", "When a health run last finished, since 1970."),
    Metric("epoch", "gauge", "Epoch of the cluster's record: it rises with every promotion."),
    Metric(
        "semisync", "gauge", "1 if the cluster is semisync: a commit is acknowledged once a member has it."
    ),
    Metric("members", "gauge", "Replicas that may acknowledge commits (semisync)."),
    Metric("replication_running", "gauge", "1 if both threads of this replica's replication run."),
    Metric("replication_lag_seconds", "gauge", "How far this replica is behind the primary."),
    Metric("snapshot_timestamp_seconds", "gauge", "When the last good snapshot was taken, since 1970."),
    Metric("snapshot_size_bytes", "gauge", "Size of the last good snapshot in the store."),
    Metric("failovers_total", "counter", "Failovers that this node carried out."),
    *(metric for hook in HOOKS for metric in _of_hook(hook)),
)
DOWN = {"primary": 0.0, "replica": 0.0, "replication_running": 0.0}
"""The gauges of a node whose server does not answer."""
COUNTERS = frozenset(metric.name for metric in METRICS if metric.kind == "counter")


class Sink(Protocol):
    """What takes values: a pilot."""

    def put(self, values: Mapping[str, float]) -> None:
        """Set gauges, and add to counters."""


@contextlib.contextmanager
def counted(sink: Sink, hook: str) -> Iterator[None]:
    """Count a run of a hook, its time, and whether it ended in an exception; commands are not counted."""
    begun, failed = time.monotonic(), 1
    try:
        yield
        failed = 0
    finally:
        if hook in HOOKS:
            sink.put(
                {
                    f"{hook}_runs_total": 1,
                    f"{hook}_errors_total": failed,
                    f"{hook}_seconds_total": time.monotonic() - begun,
                }
            )


def read(run_dir: Path, file: str = FILE) -> dict[str, float]:
    """Return the values in RUN_DIR by name; none yet, or damaged ones, are an empty dictionary."""
    try:
        content = json.loads((run_dir / file).read_text())
        return {str(name): float(value) for name, value in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write(run_dir: Path, file: str, values: Mapping[str, float]) -> None:
    """Replace a file of values; OSError."""
    new = run_dir / f"{file}.new"
    new.write_text(json.dumps(values))
    os.replace(new, run_dir / file)


def add(run_dir: Path, values: Mapping[str, float]) -> None:
    """Set gauges and add to counters in RUN_DIR; given up when another hook is at it for long. OSError."""
    with contextlib.suppress(Busy), flocked(run_dir / "metrics.lock", wait=0.5, busy="metrics"):
        now = read(run_dir)
        for name, value in values.items():
            now[name] = now.get(name, 0.0) + value if name in COUNTERS else value
        write(run_dir, FILE, now)
