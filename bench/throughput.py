"""`make bench-throughput`: eight writers on one node alone, with async, and with semisync and two replicas."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench.ours import Ours
from faults.client import Client
from faults.history import History
from sandbox.node import SandboxError
from sandbox.packages import ROOT, PackagesError, ensure

CASES: dict[str, tuple[int, dict[str, str]]] = {
    "alone": (1, {"DURABILITY": "async"}),
    "async": (3, {"DURABILITY": "async"}),
    "semisync": (3, {"DURABILITY": "semisync"}),
}
SUBNETS = {"alone": "198.18.204", "async": "198.18.205", "semisync": "198.18.206"}
WRITERS = 8
WARM_UP = 2.0
RESULTS = ROOT / "bench" / "results"


def measure(subject: Ours, seconds: float) -> dict[str, float]:
    """Return commits a second, and the median and the 99th percentile of their times in milliseconds."""
    history = History()
    clients = [Client(subject.cluster, history, number, append=False, pause=0.0) for number in range(WRITERS)]
    for table in ("fault_rows", "fault_lists"):
        subject.cluster.node(subject.primary().node).mysql(f"DROP TABLE IF EXISTS {subject.database}.{table}")
    clients[0].create_table()
    for client in clients:
        client.start()
    time.sleep(WARM_UP)
    begin = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    for client in clients:
        client.stop()
    told = history.so_far()
    if bad := [one for one in told if one.outcome != "acknowledged"]:
        raise SandboxError(f"a write was not acknowledged: {bad[0].error}")
    times = sorted(one.end - one.begin for one in told if begin <= one.end <= end)
    return {
        "commits_per_s": round(len(times) / (end - begin), 1),
        "median_ms": round(1000 * statistics.median(times), 2),
        "p99_ms": round(1000 * times[int(0.99 * len(times))], 2),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure all three, one after the other and again; return 0, or 1 if that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--runs", default="", help="rounds (default 3)")
    parser.add_argument("--seconds", default="", help="of each measurement (default 10)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    try:
        packages = ensure()
        for number in range(int(given.runs or 3)):
            for case, (nodes, env) in CASES.items():
                place = Path(f"/tmp/autopilot-bench-{os.getuid()}-{case}")
                subject = Ours(packages, place, SUBNETS[case], nodes=nodes, env=env)
                try:
                    subject.up()
                    runs[case].append(measure(subject, float(given.seconds or 10)))
                finally:
                    subject.down()
                print(f"{case} {number + 1}: {runs[case][-1]}", flush=True)
    except (SandboxError, PackagesError) as error:
        print(f"bench-throughput: {error}", file=sys.stderr)
        return 1
    results: dict[str, Any] = {
        case: {name: round(statistics.median(run[name] for run in found), 2) for name in found[0]}
        | {"nodes": CASES[case][0], "writers": WRITERS, "runs": len(found)}
        for case, found in runs.items()
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "throughput.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
