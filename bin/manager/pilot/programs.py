"""The node's programs as its pilot starts them: agent, mysqld behind pre_start, loops of hooks, what a stop needs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from manager import process
from manager.discovery.discovery import Discovery
from manager.errors import AutopilotError
from manager.pilot import containerpilot, open_pilot
from manager.priority import prefer
from manager.settings import Settings
from manager.waiting import Deadline, pause, poll_until

LOG = logging.getLogger(__name__)

START_INTERVAL = 2.0
HEALTH_INTERVAL = 2.0
HEALTH_LIMIT = 10.0
PUSH_INTERVAL = 10.0
STOPPED = "stopped"
# A clean stop flushes the buffer pool; before it the role may be handed over. Compose's grace period is longer.
STOP_SECONDS = 50
HANDOVER_SECONDS = 40
REJOIN_INTERVAL = 3.0


def start_delay(last: float | None, now: float) -> float:
    """Return the seconds to wait so that two starts are START_INTERVAL apart.

    `last` is the time of the last start, None if there was none. A clock that was set back does not
    make it wait longer than that.
    """
    if last is None or last > now:
        return 0.0
    return max(0.0, START_INTERVAL - (now - last))


def run_agent(settings: Settings, consul: Sequence[str]) -> int:
    """Run the Consul agent and return its exit code; on SIGTERM take this node out of Consul, then end it.

    While it runs, it is made to join the server again when it has lost it.

    A leaving agent goes on with its checks for 5 s. One that changes in that time, and here mysqld has just
    been stopped, writes node and service into Consul's catalogue again, where they then stay: the node that
    left is no member any more, so nothing ever removes it (measured: after 3 of 6 stops).
    """
    prefer()  # the hooks that it runs decide whether this node lives
    # ContainerPilot's SIGTERM goes to the whole group: the agent is not to leave before its services are out.
    begun = time.time()
    agent = subprocess.Popen(consul, start_new_session=settings.pilot == "containerpilot")
    leaving = threading.Event()

    def leave(*_: object) -> None:
        leaving.set()
        try:
            open_pilot(settings).leave()
        except AutopilotError as error:
            LOG.warning("this node's services stay in Consul for now: %s", error)
        agent.terminate()

    signal.signal(signal.SIGTERM, leave)
    discovery = Discovery(settings)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = agent.wait(REJOIN_INTERVAL)
            if not leaving.is_set():
                pause(start_delay(begun, time.time()))  # ContainerPilot starts this again at once
            return code
        if not leaving.is_set():
            with contextlib.suppress(AutopilotError):
                discovery.rejoin()


def run_mysqld(settings: Settings, manage: Sequence[str], mysqld: str) -> NoReturn:
    """Run pre_start, then become mysqld; ends with pre_start's status if that failed.

    The pilot starts this again at once whenever it ends, so the space between starts is kept here.
    """
    pause(start_delay(_last_start(settings), time.time()))
    _start_mark(settings).touch()
    done = subprocess.run([*manage, "pre_start"], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    if settings.pilot == "containerpilot":
        # Its SIGTERM goes to the process group of each job, whatever else happens: mysqld is not to be in one.
        os.setpgid(0, os.getpgid(os.getppid()))
    prefer()  # as the hooks, which wait for it
    os.execv(mysqld, [mysqld, f"--defaults-file={settings.mysql_conf}"])


def run_health(settings: Settings, manage: Sequence[str]) -> NoReturn:
    """Run health every HEALTH_INTERVAL seconds, and show ContainerPilot the metrics from time to time.

    Not as a check of ContainerPilot's: one that takes longer than its interval stalls its job (measured).
    """
    prefer()
    pushed = -math.inf
    while True:
        begun = time.monotonic()
        hook = subprocess.Popen([*manage, "health"])
        try:
            hook.wait(HEALTH_LIMIT)
        except subprocess.TimeoutExpired:
            hook.kill()  # it ends itself after 4 s, unless it is stopped or waits for a disk
        if begun - pushed > PUSH_INTERVAL:
            containerpilot.push(settings.run_dir)
            pushed = begun
        pause(max(0.0, begun + HEALTH_INTERVAL - time.monotonic()))


def run_snapshots(settings: Settings, manage: Sequence[str]) -> NoReturn:
    """Run snapshot_task every SNAPSHOT_INTERVAL seconds; it decides by itself whether one is due."""
    while True:
        pause(settings.snapshot_interval)
        subprocess.run([*manage, "snapshot_task"], check=False)


def run_handover(settings: Settings, manage: Sequence[str]) -> int:
    """Wait for SIGTERM, then stop mysqld (`run_stop`), and return that exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.sigwait({signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return run_stop(settings, manage)


def run_stop(settings: Settings, manage: Sequence[str]) -> int:
    """Run pre_stop, stop mysqld, and leave a mark (STOPPED); returns pre_stop's exit code.

    A server that pre_stop did not get to close is killed: its clean stop would acknowledge commits that nobody else
    has (measured). The same comes of a death of this process: no pilot ends mysqld cleanly by itself.
    """
    code = subprocess.run([*manage, "pre_stop"], check=False).returncode
    process.send(settings, signal.SIGKILL if code else signal.SIGTERM)
    if not poll_until(lambda: process.pid(settings) is None, Deadline(STOP_SECONDS)):
        process.send(settings, signal.SIGKILL)
    (settings.run_dir / STOPPED).touch()
    return code


def _start_mark(settings: Settings) -> Path:
    return settings.run_dir / "mysqld.started"


def _last_start(settings: Settings) -> float | None:
    try:
        return _start_mark(settings).stat().st_mtime
    except FileNotFoundError:
        return None
