"""`make bench-containers`: the write gaps of faults to a container, beside the sandbox's in the same run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.failover import RESULTS, Measured, measure_group
from bench.ours import Ours
from containers import engine, images
from sandbox.health import Catalogue, Endpoint
from sandbox.node import SandboxError
from sandbox.packages import PackagesError, ensure
from sandbox.processes import wait_for
from tests.e2e.compose import Project

FAULTS = ("node_killed", "frozen", "partitioned", "clean_stop", "switchover")
NODES = 3
START = 240.0
SUBNET = "198.18.204"
ASKED = 1.5
"""How many times the sandbox's gap a container's may be."""


class Containers:
    """The compose project as the benchmark sees it; a Docker engine runs."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.user, self.password = project.settings["MYSQL_USER"], project.settings["MYSQL_PASSWORD"]
        self.database = project.settings["MYSQL_DATABASE"]

    @property
    def finder(self) -> Catalogue:
        """What Consul knows."""
        return self._project.catalogue

    def up(self) -> None:
        """Build, start, and wait until it is complete; SandboxError after 4 min."""
        self._project.remove()
        self._project.build()
        self._project.compose("up", "-d")
        if not wait_for(lambda: self._project.primary() is not None, START, 0.2):
            raise SandboxError("no primary in the containers")
        self._project.compose("scale", f"mysql={NODES}")
        self.settle()

    def down(self) -> None:
        """Remove everything."""
        self._project.remove()

    def settle(self) -> None:
        """Start what is down, and wait until all nodes are back; SandboxError after 4 min."""
        self._project.compose("up", "-d", "--no-recreate", "--scale", f"mysql={NODES}")
        if not wait_for(lambda: not self._project.lacks(NODES, rows=False), START, 0.2):
            raise SandboxError(f"the containers lack {self._project.lacks(NODES, rows=False)}")

    def primary(self) -> Endpoint:
        """The healthy primary; SandboxError if there is none for a minute."""
        if not wait_for(lambda: self._project.primary() is not None, 60.0) or not (
            primary := self._project.primary()
        ):
            raise SandboxError("there is no healthy primary in the containers")
        return primary

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Do one of FAULTS to the primary's container, and undo it at the end."""
        project = self._project
        container = project.primary_container()
        stopping = threading.Thread(target=project.docker, args=("stop", container))
        with contextlib.ExitStack() as undo:
            if kind == "node_killed":
                project.docker("kill", container)
            elif kind == "frozen":
                undo.callback(project.docker, "unpause", container)
                project.docker("pause", container)
            elif kind == "partitioned":
                undo.enter_context(project.cut_off(container))
            elif kind == "clean_stop":
                undo.callback(stopping.join)
                stopping.start()
            elif kind == "switchover":
                project.docker("exec", container, "manage.py", "switchover")
            yield


def summarise(measured: dict[str, dict[str, list[Measured]]]) -> dict[str, Any]:
    """Return the results by fault, from the runs by place and fault."""
    found: dict[str, Any] = {}
    for kind in FAULTS:
        entry: dict[str, Any] = {}
        for place, runs in measured.items():
            gaps = [run.gap for run in runs[kind] if run.gap is not None]
            entry[f"{place}_runs"] = len(runs[kind])
            entry[f"{place}_failures"] = len(runs[kind]) - len(gaps)
            entry[f"{place}_missing_rows"] = sum(run.missing for run in runs[kind])
            if gaps:
                entry[f"{place}_median_s"] = round(statistics.median(gaps), 3)
                entry[f"{place}_max_s"] = round(max(gaps), 3)
        if "containers_median_s" in entry and "sandbox_median_s" in entry:
            entry["ratio"] = round(entry["containers_median_s"] / entry["sandbox_median_s"], 2)
        found[kind] = entry
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure both; return 0, or 1 if a run failed, a row is missing, or a container's gap is too long."""
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=__doc__)
    parser.add_argument("--runs", default="", help="how often each fault is done (default 5)")
    given = parser.parse_args(arguments)
    runs, pilot = int(given.runs or 5), os.environ.get("PILOT") or "consul"
    measured: dict[str, dict[str, list[Measured]]] = {
        place: {kind: [] for kind in FAULTS} for place in ("containers", "sandbox")
    }
    try:
        with engine.running(), tempfile.TemporaryDirectory(prefix="autopilot-bench-") as directory:
            project = Project(directory=Path(directory), images=images.ensure(), pilot=pilot)
            measure_group(Containers(project), "containers", FAULTS, runs, measured["containers"])
        place = Path(f"/tmp/autopilot-bench-{os.getuid()}-sandbox")
        sandbox = Ours(ensure(), place, SUBNET, nodes=NODES)
        measure_group(sandbox, "sandbox", FAULTS, runs, measured["sandbox"])
    except (SandboxError, PackagesError, engine.EngineError, images.ImageError, AssertionError) as error:
        print(f"bench-containers: {error}", file=sys.stderr)
        return 1
    results = summarise(measured)
    file = RESULTS / f"containers-{pilot}.json"
    file.write_text(json.dumps(results, indent=2) + "\n")
    print(file.read_text())
    bad = [kind for kind, entry in results.items() if _is_bad(entry)]
    return 1 if bad else 0


def _is_bad(entry: dict[str, Any]) -> bool:
    broken = any(value for name, value in entry.items() if name.endswith(("_failures", "_missing_rows")))
    return broken or entry.get("ratio", 0.0) > ASKED


if __name__ == "__main__":
    sys.exit(main())
