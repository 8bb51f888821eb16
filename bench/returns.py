"""`make bench-return`: the primary's mysqld killed under eight writers; when it is a replica again, and how."""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

from bench.ours import Ours
from bench.throughput import WRITERS
from faults.client import ROWS, Client
from faults.history import History
from sandbox.node import Node, SandboxError
from sandbox.packages import ROOT, PackagesError, ensure
from sandbox.processes import wait_for

SUBNET = "198.18.207"
RESULTS = ROOT / "bench" / "results"
WARM_UP = 3.0
RETURN_TIME = 120.0
WAYS = {"the data directory is now": "rebuilt", "trimmed: ": "trimmed"}
"""By what its log says; otherwise it had nothing that the new primary lacks, and follows."""


def once(subject: Ours) -> tuple[float, str]:
    """Kill the primary's mysqld; return after how many seconds its node is a healthy replica, and the way."""
    cluster = subject.cluster
    old = cluster.node(subject.primary().node)
    logged = len(old.logs())
    pid = int((old.directory / "run" / "mysqld.pid").read_text())
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        primary = cluster.catalogue.primary
        return (
            primary is not None
            and primary.node != old.name
            and any(one.node == old.name for one in cluster.catalogue.replicas)
        )

    # What Consul shows in the first moment is from before.
    wait_for(lambda: not any(one.node == old.name for one in cluster.catalogue.replicas), 1.0, 0.02)
    if not wait_for(back, RETURN_TIME, 0.05):
        raise SandboxError(f"{old.name} is no replica after {RETURN_TIME:.0f} s: see {old.log}")
    return time.monotonic() - begin, way(old, logged)


def way(node: Node, logged: int) -> str:
    """How a node came back, by its log from `logged` on."""
    text = node.logs()[logged:]
    return next((name for words, name in WAYS.items() if words in text), "followed")


def measure(subject: Ours, runs: int) -> tuple[list[float], collections.Counter[str], int]:
    """Return each run's seconds, how often each way was taken, and how many acknowledged rows are missing."""
    history = History()
    clients = [Client(subject.cluster, history, number, append=False, pause=0.0) for number in range(WRITERS)]
    clients[0].create_table()
    for client in clients:
        client.start()
    took: list[float] = []
    ways: collections.Counter[str] = collections.Counter()
    for number in range(runs):
        time.sleep(WARM_UP)
        seconds, by = once(subject)
        took.append(seconds)
        ways[by] += 1
        print(f"{number + 1}: {seconds:.2f} s, {by}", flush=True)
        subject.settle()
    for client in clients:
        client.stop()
    subject.settle()
    told = {(one.writer, one.number) for one in history.so_far() if one.outcome == "acknowledged"}
    rows = subject.cluster.node(subject.primary().node).mysql(
        f"SELECT writer, number FROM {subject.database}.{ROWS}"
    )
    return took, ways, len(told - {(row["writer"], row["number"]) for row in rows})


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write bench/results/return.json; return 0, or 1 if that was not possible or a row is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.returns", description=__doc__)
    parser.add_argument("--runs", default="", help="how often it is killed (default 10)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    runs = int(given.runs or 10)
    try:
        subject = Ours(ensure(), Path(f"/tmp/autopilot-bench-{os.getuid()}-return"), SUBNET)
        try:
            subject.up()
            took, ways, missing = measure(subject, runs)
        finally:
            subject.down()
    except (SandboxError, PackagesError) as error:
        print(f"bench-return: {error}", file=sys.stderr)
        return 1
    found = {
        "runs": runs,
        "writers": WRITERS,
        "median_s": round(statistics.median(took), 2),
        "max_s": round(max(took), 2),
        "missing_rows": missing,
        **{name: ways[name] for name in ("followed", "trimmed", "rebuilt")},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "return.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
