"""`make bench-busy`: a primary on a machine whose cores have other work, then with all its connections taken.

Nothing must happen: no failover, and the primary is in Consul all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.failover import RESULTS, gaps
from bench.ours import Ours
from faults.actions import connections_taken
from faults.world import World
from sandbox.node import SandboxError
from sandbox.packages import PackagesError, ensure
from sandbox.writer import Writer

SUBNET = "198.18.207"
SAMPLE = 0.1
TAKEN_S = 60.0
ABSENT_S = 1.0
GAP_S = 2.0


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """As many processes that do nothing but count."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def watch(subject: Ours, writer: Writer, seconds: float) -> dict[str, Any]:
    """Look at Consul for that long; return what was seen, in seconds."""
    begin = time.monotonic()
    epoch = World(subject.cluster, lambda text: None).record()["epoch"]
    absent = longest_look = 0.0
    before = begin
    while before - begin < seconds:
        time.sleep(SAMPLE)
        there = subject.finder.primary is not None
        now = time.monotonic()
        absent += 0.0 if there else now - before
        longest_look = max(longest_look, now - before)
        before = now
    times = list(writer.history.acknowledged.values())
    return {
        "seconds": round(before - begin, 1),
        "failovers": World(subject.cluster, lambda text: None).record()["epoch"] - epoch,
        "primary_absent_s": round(absent, 2),
        "longest_look_s": round(longest_look, 2),
        "longest_gap_s": round(max(gaps(times, begin, before)), 2),
        "rows": sum(moment >= begin for moment in times),
    }


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if nothing happened, 1 if something did, or if it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--minutes", default="", help="how long the cores are busy (default 30)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    subject = Ours(ensure(), Path(f"/tmp/autopilot-bench-{os.getuid()}-busy"), SUBNET)
    results = {}
    try:
        subject.up()
        writer = Writer(
            subject.finder,
            user=subject.user,
            password=subject.password,
            database=subject.database,
            pause=0.01,
        )
        writer.create_table()
        writer.start()
        try:
            with busy(os.cpu_count() or 1):
                results["busy"] = watch(subject, writer, 60.0 * float(given.minutes or 30))
            subject.settle()
            with connections_taken(subject.cluster, subject.cluster.node(subject.primary().node)) as taken:
                results["connections"] = watch(subject, writer, TAKEN_S) | {"taken": taken}
        finally:
            writer.stop()
    except (SandboxError, PackagesError) as error:
        print(f"bench-busy: {error}", file=sys.stderr)
        return 1
    finally:
        subject.down()
    print(json.dumps(results, indent=2))
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "busy.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(one["failovers"] == 0 for one in results.values()) and within(results) else 1


def within(results: Mapping[str, Mapping[str, Any]]) -> bool:
    """True if the primary was always there, but for a second, and nobody waited for more than two."""
    absent = sum(one["primary_absent_s"] for one in results.values())
    return absent <= ABSENT_S and max(one["longest_gap_s"] for one in results.values()) <= GAP_S


if __name__ == "__main__":
    sys.exit(main())
