"""`make bench-failover`: how long nobody can write after each fault, beside Group Replication in the same run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pymysql

from bench.group import Group
from bench.ours import Ours
from bench.plot import bars
from sandbox.health import Endpoint
from sandbox.node import SandboxError
from sandbox.packages import ROOT, Packages, PackagesError, ensure
from sandbox.processes import wait_for
from sandbox.writer import Finder, Writer

FAULTS = {
    "mysqld_killed": "mysqld killed",
    "node_killed": "node killed",
    "frozen": "node frozen",
    "partitioned": "primary partitioned from all",
    "clean_stop": "clean stop",
    "switchover": "switchover",
}
OWN = {
    "replica_killed": "one of two replicas killed",
    "replicas_killed": "both replicas killed",
    "all_killed": "all nodes killed and started again",
    "disk_full": "the primary's disk full",
}
"""Of this project alone; the last one on small disks, which are in memory."""
TITLES = FAULTS | OWN
SUBJECTS = {"ours": "this project", "gr_default": "Group Replication", "gr_tuned": "Group Replication, tuned"}
PREFIXES = {"ours": "", "gr_default": "gr_default_", "gr_tuned": "gr_tuned_"}
SUBNET = {"ours": "198.18.201", "gr_default": "198.18.202", "gr_tuned": "198.18.203"}
RESULTS = ROOT / "bench" / "results"
GAP_TIME = 90.0
BEFORE = 50
AFTER = 50
DISK_MB = 1536


class Subject(Protocol):
    """What is measured: something that has a primary, to which faults happen."""

    user: str
    password: str
    database: str

    @property
    def finder(self) -> Finder:
        """Who tells the writer where the primary is."""

    def up(self) -> None:
        """Start it."""

    def down(self) -> None:
        """Remove it."""

    def settle(self) -> None:
        """Bring everything back."""

    def primary(self) -> Endpoint:
        """Where the primary is."""

    def fault(self, kind: str) -> AbstractContextManager[None]:
        """Do a fault, and undo it at the end."""


@dataclass(frozen=True)
class Measured:
    """One run: the write gap in seconds (None if it failed), rows acknowledged, and those of them missing."""

    gap: float | None
    rows: int
    missing: int


def measure(subject: Subject, kind: str) -> Measured:
    """Do one fault under one writer; SandboxError if nobody can write for 90 s, or it does not come back."""
    subject.settle()
    writer = Writer(
        subject.finder, user=subject.user, password=subject.password, database=subject.database, pause=0.005
    )
    with subject_client(subject) as cursor:
        cursor.execute("DROP TABLE IF EXISTS sandbox_rows")
    writer.create_table()
    writer.start()
    history = writer.history
    try:
        if not wait_for(lambda: len(history.acknowledged) >= BEFORE, 30.0):
            raise SandboxError(f"{kind}: the writer does not get on")
        begin = time.monotonic()
        with subject.fault(kind):
            # Acknowledged before the fault was complete does not count as after it.
            done = time.monotonic()

            def over() -> bool:
                newest = max(history.acknowledged.values())
                return history.gap(begin) is not None and newest > done + (
                    3.0 if kind == "clean_stop" else 1.0
                )

            if not wait_for(over, GAP_TIME, 0.05):
                raise SandboxError(f"{kind}: nothing was acknowledged for {GAP_TIME:.0f} s")
            healed = time.monotonic()
        subject.settle()
        count = len(history.acknowledged)
        wait_for(lambda: len(history.acknowledged) >= count + AFTER, 30.0)
    finally:
        writer.stop()
    # The gap that the fault made, not what the healing or the return of the node may cost later.
    gap = max(gaps(list(history.acknowledged.values()), begin, healed))
    missing = history.missing(writer.read(subject.primary()))
    return Measured(gap, len(history.acknowledged), len(missing))


def gaps(times: list[float], begin: float, end: float) -> list[float]:
    """The times without an acknowledgement that touch the time from `begin` to `end`."""
    pairs = list(zip(times, times[1:], strict=False))
    return [later - earlier for earlier, later in pairs if later > begin and earlier < end]


@contextlib.contextmanager
def subject_client(subject: Subject) -> Iterator[Any]:
    """A cursor on the primary, as the application."""
    primary = subject.primary()
    with (
        pymysql.connect(
            host=primary.address,
            user=subject.user,
            password=subject.password,
            database=subject.database,
            autocommit=True,
            read_timeout=20,
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def summarise(measured: Mapping[str, Mapping[str, Sequence[Measured]]]) -> dict[str, Any]:
    """Return the results by fault, from the runs by subject and fault; what was not measured is left out."""
    found = {}
    for kind in (*FAULTS, *OWN):
        entry: dict[str, Any] = {}
        for name, prefix in PREFIXES.items():
            if not (runs := measured.get(name, {}).get(kind, ())):
                continue
            gaps_s = [run.gap for run in runs if run.gap is not None]
            entry[f"{prefix}runs"] = len(runs)
            if gaps_s:
                entry[f"{prefix}median_s"] = round(statistics.median(gaps_s), 3)
                entry[f"{prefix}max_s"] = round(max(gaps_s), 3)
            entry[f"{prefix}missing_rows"] = sum(run.missing for run in runs)
            entry[f"{prefix}failures"] = len(runs) - len(gaps_s)
        if entry:
            found[kind] = entry
    return found


def measure_all(
    packages: Packages, name: str, kinds: Sequence[str], runs: int, found: dict[str, list[Measured]]
) -> None:
    """Do every fault `runs` times to one subject, into `found`; after a run that failed it is made anew."""
    place = Path(f"/tmp/autopilot-bench-{os.getuid()}-{name}")
    small_disks = [kind for kind in kinds if kind == "disk_full"]
    for group in ([kind for kind in kinds if kind not in small_disks], small_disks):
        if not group:
            continue
        subject: Subject
        if name == "ours":
            subject = Ours(packages, place, SUBNET[name], disk_mb=DISK_MB if group is small_disks else None)
        else:
            subject = Group(packages, place, SUBNET[name], expel_timeout=0 if name == "gr_tuned" else None)
        measure_group(subject, SUBJECTS[name], group, runs, found)


def measure_group(
    subject: Subject, title: str, kinds: Sequence[str], runs: int, found: dict[str, list[Measured]]
) -> None:
    """Do every fault `runs` times to a subject that is made for it, into `found`; a run that failed has no gap."""
    try:
        subject.up()
        for number in range(runs):
            for kind in kinds:
                try:
                    measured = measure(subject, kind)
                    text = f"{measured.gap:.2f} s, {measured.missing} of {measured.rows} rows missing"
                except (SandboxError, AssertionError, pymysql.MySQLError) as error:
                    measured, text = Measured(None, 0, 0), f"failed: {error}"
                    subject.down()
                    subject.up()
                found[kind].append(measured)
                print(f"{title}: {TITLES[kind]} {number + 1}: {text}", flush=True)
    finally:
        subject.down()


def main(arguments: list[str] | None = None) -> int:
    """Measure all; return 0, or 1 if one of our runs failed or a row is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--runs", default="", help="how often each fault is done (default 3)")
    parser.add_argument("--faults", default="", help=f"of {', '.join(TITLES)} (default all)")
    parser.add_argument("--subjects", default="", help=f"of {', '.join(SUBJECTS)} (default all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    kinds = given.faults.replace(",", " ").split() or list(TITLES)
    names = given.subjects.replace(",", " ").split() or list(SUBJECTS)
    measured: dict[str, dict[str, list[Measured]]] = {
        name: {kind: [] for kind in TITLES} for name in SUBJECTS
    }
    try:
        packages = ensure()
        for name in names:
            mine = kinds if name == "ours" else [kind for kind in kinds if kind in FAULTS]
            measure_all(packages, name, mine, int(given.runs or 3), measured[name])
            save(summarise(measured), given.output)  # it takes hours: what is measured is kept
    except (SandboxError, PackagesError, pymysql.MySQLError) as error:
        print(f"bench-failover: {error}", file=sys.stderr)
        return 1
    results = summarise(measured)
    bad = [kind for kind, entry in results.items() if entry.get("missing_rows") or entry.get("failures")]
    return 1 if bad else 0


def save(results: Mapping[str, Mapping[str, Any]], directory: Path) -> None:
    """Write the results, as JSON and as SVG."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "failover.json").write_text(json.dumps(results, indent=2) + "\n")
    (directory / "failover.svg").write_text(plot(results))


def plot(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as SVG: a group of bars for each fault."""
    groups = {
        TITLES[kind]: {
            SUBJECTS[name]: (entry[f"{prefix}median_s"], entry[f"{prefix}max_s"])
            for name, prefix in PREFIXES.items()
            if f"{prefix}median_s" in entry
        }
        for kind, entry in results.items()
    }
    return bars("Seconds without an acknowledged write", groups)


if __name__ == "__main__":
    sys.exit(main())
