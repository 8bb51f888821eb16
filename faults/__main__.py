"""The command line behind `make faults`."""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import sys
import traceback
from pathlib import Path

from faults.mutants import MUTANTS, build
from faults.run import Options, Run
from faults.schedule import KINDS, selected
from sandbox.cluster import Cluster
from sandbox.node import SandboxError
from sandbox.packages import ROOT, PackagesError, ensure

SUBNET = "198.18.200"
LOOPBACK = "127.0.74"
DISK_MB = 1536


def parser() -> argparse.ArgumentParser:
    """The options; empty texts are what make gives for what was left out."""
    result = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    result.add_argument("--seed", default="", help="a number; without it one is drawn, and printed")
    result.add_argument("--minutes", default="", help="how long faults are begun (default 5)")
    result.add_argument(
        "--faults", default="", help=f"of {', '.join(KINDS)}, or beginnings of these (default all)"
    )
    result.add_argument("--durability", default="", help="semisync (default) or async")
    result.add_argument("--overlap", default="", help="1: two faults at once")
    result.add_argument(
        "--mutant", default="", help=f"run hooks without one safety rule, aimed at it: {', '.join(MUTANTS)}"
    )
    result.add_argument("--env", action="append", default=[], help="NAME=VALUE: a setting for every node")
    result.add_argument(
        "--keep",
        default="",
        help="1: keep history and logs in any case, and after a violation leave the cluster running",
    )
    result.add_argument("--subnet", default="", help=f"as root {SUBNET}, else {LOOPBACK}")
    result.add_argument("--output", type=Path, default=ROOT / "build" / "faults")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run once; return 0 if nothing was found, 1 if there was a violation, 2 if nothing could be judged."""
    given = parser().parse_args(arguments)
    root = os.getuid() == 0
    try:
        env = dict(pair.split("=", 1) for pair in given.env)
        if given.mutant and given.mutant not in MUTANTS:
            raise ValueError(f"MUTANT: {given.mutant!r} is none of {', '.join(MUTANTS)}")
        aim = MUTANTS.get(given.mutant)
        if aim:
            given.seed, given.minutes = given.seed or aim.seed, given.minutes or aim.minutes
            given.faults, given.durability = given.faults or aim.faults, given.durability or aim.durability
        seed = int(given.seed or random.randrange(1, 10**6))
        subnet = given.subnet or (SUBNET if root else LOOPBACK)
        packages = ensure()
        place = Path(f"/tmp/autopilot-faults-{os.getuid()}-{subnet}")
        options = Options(
            seed=seed,
            minutes=float(given.minutes or 5),
            kinds=selected(given.faults.replace(",", " ").split(), root=root),
            durability=given.durability or "semisync",
            overlap=given.overlap not in ("", "0"),
            directory=given.output / (given.mutant or str(seed)),
            until_found=aim is not None,
            keep=given.keep not in ("", "0"),
        )
        with open(f"{place}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Cluster(place, packages=packages).down()
            cluster = Cluster(
                place,
                subnet=subnet,
                packages=packages,
                env={"DURABILITY": options.durability, **env},
                namespaces=root,
                disk_mb=DISK_MB if root else None,
                code=build(aim, Path(f"{place}-build")) if aim else ROOT,
            )
            return go(cluster, options)
    except BlockingIOError:
        print(f"faults: another run is at work on {subnet}; choose another --subnet", file=sys.stderr)
    except (SandboxError, PackagesError, ValueError) as error:
        print(f"faults: {error}", file=sys.stderr)
    return 2


def go(cluster: Cluster, options: Options) -> int:
    """Do one run on a cluster that is not there yet, and take it down."""
    shutil.rmtree(options.directory, ignore_errors=True)
    run = Run(options, cluster)
    try:
        run.go()
    except KeyboardInterrupt:
        run.blame("interrupted", "by the user")
    except Exception as error:  # whatever it was, the history is kept
        traceback.print_exc()
        run.blame("broken off", f"{type(error).__name__}: {error}")
    run.keep()
    report(run)
    if not (run.violations and options.keep):
        cluster.down()
    return 1 if run.violations else 0


def report(run: Run) -> None:
    """The few lines that a person wants to see."""
    summary = run.summary()
    print(f"\nseed {summary['seed']}: {summary['faults']} faults in {summary['seconds']:.0f} s,", end=" ")
    print(
        f"{summary['epochs']} epochs, {summary['operations']['acknowledged']} writes acknowledged,", end=" "
    )
    print(f"{summary['operations']['unknown']} without an answer, {summary['lost']} lost")
    print(f"longest time without a write {summary['longest_write_gap_s']} s,", end=" ")
    print(f"longest convergence {summary['longest_convergence_s']} s")
    for one in run.violations:
        print(f"VIOLATION after fault {one.fault}: {one.kind}: {one.text}")
    print(f"{len(run.violations)} violations; {run.options.directory}/summary.json")


if __name__ == "__main__":
    sys.exit(main())
