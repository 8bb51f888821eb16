"""All processes of one node, whatever became of their parents: found by a variable in their environment.

A child inherits the marker before it can run anything, so a process that a hook detached is found as
well, and so is mysqld under another user. It works the same way for root and for an ordinary user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandbox.processes import states, stop_here, wait_for

MARKER = "AUTOPILOT_NODE_DIR"


def everything(_pid: int) -> bool:
    """Choose every process."""
    return True


def start_marked(directory: Path, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
    """Start a command in a session of its own, as nobody's child, marked with `directory`."""
    with open(log, "ab") as output:
        subprocess.run(
            ["setsid", "--fork", *command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={**env, MARKER: str(directory)},
        )


def processes(directory: Path) -> set[int]:
    """Return the ids of all processes marked with `directory` or one below it; zombies are not counted."""
    exact = f"{MARKER}={directory}".encode()
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for value in _environment(entry):
                if value == exact or value.startswith(exact + b"/"):
                    found.add(int(entry))
    return found


def _environment(pid: str) -> list[bytes]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return file.read().split(b"\0")
    return []


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; empty if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode(errors="replace").split("\0")[:-1]
    return []


def send(directory: Path, number: int, only: Callable[[int], bool] = everything) -> None:
    """Send a signal to every process as it is found, or to those that `only` chooses."""
    for pid in processes(directory):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if only(pid):
                os.kill(pid, number)


def kill(directory: Path) -> None:
    """SIGKILL for all of them, and wait until none is left; TimeoutError after 30 s.

    They are stopped first, so that none of them can start another one or see another one die.
    """
    freeze(directory)
    killed: set[int] = set()

    def gone() -> bool:
        killed.update(processes(directory))
        send(directory, signal.SIGKILL)
        return not processes(directory) and all(map(_ended, killed))

    if not wait_for(gone, 30.0, interval=0.01):
        raise TimeoutError(f"processes of {directory} survive SIGKILL: {sorted(processes(directory))}")


def _ended(pid: int) -> bool:
    """True once a process holds no file or port any more; while it ends, it has no environment already."""
    return states(pid) <= {"Z", "X"}


def freeze(directory: Path, only: Callable[[int], bool] = everything) -> None:
    """SIGSTOP for all of them, or for those that `only` chooses, until all are stopped."""
    seen: set[int] = set()
    while True:
        found = processes(directory)
        if found <= seen:
            return
        for pid in filter(only, found):
            stop_here(pid)
        seen |= found


def thaw(directory: Path) -> None:
    """SIGCONT for all of them."""
    send(directory, signal.SIGCONT)
