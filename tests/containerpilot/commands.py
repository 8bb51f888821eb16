"""A command of ContainerPilot's: a process group of its own, one run at a time, ended as ContainerPilot ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from tests.containerpilot.events import Bus, Event


class Command:
    """`name` is the source of its events: exitSuccess, exitFailed."""

    def __init__(self, name: str, command: Sequence[str], timeout: float | None, *, raw: bool) -> None:
        self.name = name
        self._command = command
        self._timeout = timeout
        self._raw = raw
        self._one = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, bus: Bus, cancelled: threading.Event) -> None:
        """Start it, once the run before has ended: whoever asks waits for that (measured: checks that stall).

        Its group gets SIGKILL when its time is up, and SIGTERM when it has ended, or when `cancelled` is set.
        """
        self._one.acquire()
        output = None if self._raw else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )
        except OSError as error:
            print(f"containerpilot: unable to start {self.name}: {error}", flush=True)
            self._one.release()
            bus.publish(Event("exitFailed", self.name))
            return
        self._process = process
        threading.Thread(target=self._watch, args=(process, bus, cancelled), daemon=True).start()

    def kill(self) -> None:
        """SIGKILL to the group of the last run, if any of it is left."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)

    def _watch(self, process: subprocess.Popen[bytes], bus: Bus, cancelled: threading.Event) -> None:
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while process.poll() is None and not cancelled.is_set():
            if end is not None and time.monotonic() > end:
                print(f"containerpilot: {self.name} timeout after {self._timeout} s", flush=True)
                _signal(process, signal.SIGKILL)
                break
            cancelled.wait(0.02)
        if cancelled.is_set():
            _signal(process, signal.SIGTERM)
        code = process.wait()
        _signal(process, signal.SIGTERM)
        self._one.release()
        bus.publish(Event("exitFailed" if code else "exitSuccess", self.name))


def _signal(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)
