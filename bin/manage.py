#!/usr/bin/env python3
"""The one entry point: reads the arguments and the settings, runs one hook, sets the exit code."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from manager import __version__, flock, log, metrics, nodefile
from manager.errors import AutopilotError, TimeIsUp, Unhealthy
from manager.hooks import last
from manager.settings import Settings, load

if TYPE_CHECKING:
    from manager.node import Node

LOG = logging.getLogger("manager")

LIMITS = {
    "health": 4.0,
    "on_change": 120.0,
    "status": 30.0,
    "pre_stop": 40.0,
    "switchover": 120.0,
    "failover": 120.0,
}
"""Seconds after which a command ends itself (SPEC 3, G8); the others bound each of their steps."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the parsed command line; wrong usage ends the process with exit code 2."""
    parser = argparse.ArgumentParser(prog="manage.py", description="Autopilot MySQL's hooks and commands.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "pre_start", help="prepare the data directory and my.cnf (before every start of mysqld)"
    )
    health = commands.add_parser("health", help="do this node's part in the cluster, and say how it is")
    health.add_argument(
        "--as",
        dest="ask",
        choices=("node", *last.QUESTIONS),
        help="node: the exit code says only whether the server answers; the others repeat what the last run found",
    )
    on_change = commands.add_parser("on_change", help="the set of healthy primaries has changed")
    on_change.add_argument(
        "--witness", action="store_true", help="begin nothing: be there for the outcome of a runner at work"
    )
    commands.add_parser("snapshot_task", help="take a snapshot if one is due")
    commands.add_parser("snapshot", help="take a snapshot now, due or not")
    snapshots = commands.add_parser("snapshots", help="list the snapshots in the store")
    snapshots.add_argument("--json", action="store_true", help="print JSON instead of a table")
    restore = commands.add_parser("restore", help="build a data directory from a snapshot")
    restore.add_argument("--snapshot", metavar="ID", help="the snapshot; without it the last one")
    restore.add_argument("--datadir", metavar="DIR", type=Path, required=True, help="an empty directory")
    verify = commands.add_parser("verify", help="find out whether a snapshot can be restored and is sound")
    verify.add_argument("--snapshot", metavar="ID", help="the snapshot; without it the last one")
    commands.add_parser("rescue", help="save and rebuild a diverged node (started by health)")
    commands.add_parser("first_start", help="run the users' first-start scripts (started by health)")
    commands.add_parser("pre_stop", help="hand the primary's role over before mysqld is stopped")
    status = commands.add_parser("status", help="show the cluster")
    status.add_argument("--json", action="store_true", help="print JSON instead of a table")
    switchover = commands.add_parser(
        "switchover", help="make another node the primary, without losing anything"
    )
    switchover.add_argument("--to", metavar="NODE", help="the node; without it the best one is chosen")
    failover = commands.add_parser("failover", help="fail over now, if the rules allow it")
    failover.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    failover.add_argument(
        "--force", action="store_true", help="promote the best node that answers; may lose data"
    )
    pause = commands.add_parser("pause", help="no automatic action until resume")
    pause.add_argument("reason", nargs="?", default="", help="why, for the others")
    commands.add_parser("resume", help="let automatic action go on")
    bootstrap = commands.add_parser("bootstrap", help="found the cluster anew here, after a total loss")
    bootstrap.add_argument("--force", action="store_true", required=True, help="yes, the old cluster is lost")
    bootstrap.add_argument("--snapshot", metavar="ID", help="with the data of this snapshot")
    return parser.parse_args(arguments or ["pre_start"])


def idle(settings: Settings, options: argparse.Namespace) -> bool:
    """True if a hook has nothing to do: no part of the cluster yet, or another on_change; Unhealthy without a server.

    Answered before anything that talks with Consul or MySQL is loaded: that is most of a hook's work, and a node
    that is still being initialised needs the processor itself (measured: 0.2 s of it for each run).
    """
    if options.command == "health" and not settings.socket.exists():
        raise Unhealthy(f"the local server: mysqld does not run (there is no {settings.socket})")
    if options.command not in ("on_change", "snapshot_task"):
        return False
    if options.command == "on_change" and flock.taken(settings.run_dir / "on_change.lock"):
        return True
    file = nodefile.read(settings.mysql_datadir)
    if file is not None and file.ready:
        return False
    LOG.info("not part of the cluster yet: nothing to do")
    return True


def dispatch(settings: Settings, options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.command == "health" and options.ask in last.QUESTIONS:
        return last.answer(settings.run_dir, options.ask)
    if idle(settings, options):
        return 0
    from manager.node import Node

    # SPEC 3: health has 4 s for everything.
    node = Node(settings, timeout=1.0 if options.command == "health" else 2.0)
    with metrics.counted(node.pilot, options.command):
        return run(node, options)


def run(node: Node, options: argparse.Namespace) -> int:
    """Run the command on its node and return its exit code."""
    match options.command:
        case "pre_start":
            from manager.hooks import pre_start

            return pre_start.run(node)
        case "health":
            from manager.hooks import health

            return health.run(node, options.ask)
        case "on_change":
            from manager.hooks import on_change

            return on_change.run(node, witness=options.witness)
        case "snapshot_task":
            from manager.hooks import snapshot_task

            return snapshot_task.run(node)
        case "snapshot":
            from manager.hooks import snapshot_task

            return snapshot_task.now(node)
        case "snapshots":
            from manager.hooks import snapshots

            return snapshots.show(node, as_json=options.json)
        case "restore":
            from manager.hooks import snapshots

            return snapshots.restore_to(node, snapshot=options.snapshot, datadir=options.datadir)
        case "verify":
            from manager.hooks import verification

            return verification.run(node, snapshot=options.snapshot)
        case "rescue":
            from manager.hooks import rescue

            return rescue.run(node)
        case "first_start":
            from manager.hooks import first_start

            return first_start.run(node)
        case "status":
            from manager import status

            return status.run(node, as_json=options.json)
        case _:
            return operate(node, options)


def operate(node: Node, options: argparse.Namespace) -> int:
    """Run a command that changes who is primary, or whether anything may."""
    from manager.hooks import operator

    match options.command:
        case "switchover":
            return operator.switchover(node, to=options.to)
        case "failover":
            return operator.fail_over(node, dry_run=options.dry_run, forced=options.force)
        case "pause":
            return operator.pause_cluster(node, reason=options.reason)
        case "resume":
            return operator.resume_cluster(node)
        case "bootstrap":
            from manager.hooks import bootstrap

            return bootstrap.run(node, snapshot=options.snapshot)
        case _:
            return operator.pre_stop(node)


@contextlib.contextmanager
def limit(command: str) -> Iterator[None]:
    """End the command with one line when its time is up.

    The alarm is off after the block: while Python ends it has no handlers any more, and one would kill a hook that has
    done its work (measured), which Consul takes for a dead server.
    """

    def up(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeIsUp(f"{command} was not done after {LIMITS[command]:.0f} s; the next run goes on")

    if command in LIMITS:
        signal.signal(signal.SIGALRM, up)
        signal.setitimer(signal.ITIMER_REAL, LIMITS[command])
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 fine, 1 trying again may help, 2 wrong usage or settings, or unhealthy."""
    options = parse(arguments)
    try:
        settings = load(os.environ)
        log.configure(settings.log_level, options.command, settings.secrets)
        with limit(options.command):
            return dispatch(settings, options)
    except (AutopilotError, TimeIsUp) as error:
        if logging.getLogger().handlers:
            LOG.error("%s", error)
        else:
            print(f"manage.py: {error}", file=sys.stderr)
        return error.exit_code


def end_at_once(code: int) -> NoReturn:
    """End the process without taking Python's modules apart first."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] != ["health"]:
        sys.exit(main(sys.argv[1:]))
    # Each node runs it every two seconds: a fifth of its processor time went into these two (measured). It leaves no
    # garbage that is worth a search, and loading its modules would begin one again and again.
    gc.disable()
    end_at_once(main(sys.argv[1:]))
