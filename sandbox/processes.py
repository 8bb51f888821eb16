"""Starting and ending one server as a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ServerFailed(Exception):
    """A server did not start; the text names its log and the log's last lines."""


def wait_for(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Ask `condition` until it is true (returns True) or `seconds` are over (returns its last answer)."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return condition()
        time.sleep(interval)
    return True


def answers(address: str, port: int) -> bool:
    """True if something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1.0):
        return True
    return False


def states(pid: int) -> set[str]:
    """Return the states of a process's threads (the letters of proc_pid_stat(5)); empty once it is gone."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add(stat.read_text().rpartition(")")[2].split()[0])
    return found


def stop_here(pid: int) -> None:
    """SIGSTOP, and wait until no thread of the process runs any more; TimeoutError after 10 s.

    The signal alone is no more than a request: a thread on another core goes on until it has seen it.
    One that waits in the kernel (D: for a disk, or for a vfork's child) stops before it is back from there.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGSTOP)
    if not wait_for(lambda: states(pid) <= {"T", "t", "Z", "X", "D"}, 10.0, interval=0.001):
        raise TimeoutError(f"process {pid} does not stop: {sorted(states(pid))}")


class Process:
    """One server in its own session, its output in a log file."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        with open(log, "ab") as output:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group as well."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """True until the process has ended."""
        return self.popen.poll() is None

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` is true; ServerFailed if the process ends before that or time is over."""
        wait_for(lambda: not self.alive or ready(), seconds)
        if not self.alive or not ready():
            ended = (
                f"ended with status {self.popen.returncode}"
                if not self.alive
                else f"not ready in {seconds:.0f} s"
            )
            self.kill()
            tail = " / ".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise ServerFailed(f"{Path(self.command[0]).name} {ended}; {self.log}: {tail}")

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def freeze(self) -> None:
        """Stop all of its processes as they are; returns when the first of them has stopped."""
        self.signal(signal.SIGSTOP)
        stop_here(self.pid)

    def thaw(self) -> None:
        """Let frozen processes go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL for the whole group, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, seconds: float = 30.0) -> None:
        """SIGTERM, then SIGKILL after `seconds`; returns when the group is gone."""
        if self.alive:
            self.thaw()
            with contextlib.suppress(ProcessLookupError):
                self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
        self.kill()
