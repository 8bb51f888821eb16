"""One job: what starts its command, its check, and what its end waits for."""

from __future__ import annotations

import threading
import time

from tests.containerpilot.commands import Command
from tests.containerpilot.consul import Service
from tests.containerpilot.events import SHUTDOWN, Bus, Event
from tests.containerpilot.schema import Job


class Runner(threading.Thread):
    """Runs a job from start to end; `awaited` is the job that this one's end waits for."""

    def __init__(self, job: Job, bus: Bus, service: Service | None, awaited: str | None) -> None:
        super().__init__(name=job.name, daemon=True)
        self._job, self._bus, self._service, self._awaited = job, bus, service, awaited
        self._events = bus.subscribe(job.name)
        self._cancelled = threading.Event()
        self._start: Event | None = Event(job.event, job.source)
        self._restarts = job.unlimited
        self.command = Command(job.name, job.command, job.timeout, raw=job.raw) if job.command else None
        self._check: Command | None = None
        if job.health is not None:
            health = job.health
            self._check = Command(f"check.{job.name}", health.command, health.timeout, raw=health.raw)
            threading.Thread(target=self._beat, args=(health.interval,), daemon=True).start()

    def run(self) -> None:
        """Handle one event after the other until the job halts; then stop it, in ContainerPilot's order."""
        while self._handle(self._events.get()):
            pass
        self._bus.publish(Event("stopping", self.name))
        while self._awaited is not None and self._events.get() != Event("stopped", self._awaited):
            pass
        self._cancelled.set()
        if self._service is not None:
            self._service.deregister()
        self._bus.leave(self.name)
        self._bus.publish(Event("stopped", self.name))

    def _handle(self, event: Event) -> bool:
        """Return False if the job halts."""
        job = self._job
        if event == SHUTDOWN:
            self._restarts = False
            # What waits for another's stop ignores the shutdown, unless it has been started already (source).
            return (
                self._start is not None and self._start.code in ("stopping", "stopped") and bool(job.command)
            )
        if event == Event("beat", self.name) and self._check is not None:
            self._check.start(self._bus, self._cancelled)
        elif event == Event("exitSuccess", f"check.{self.name}"):
            self._bus.publish(Event("healthy", self.name))
            if self._service is not None:
                self._service.heartbeat()
        elif event == Event("exitFailed", f"check.{self.name}"):
            self._bus.publish(Event("unhealthy", self.name))
        elif event.source == self.name and event.code in ("exitSuccess", "exitFailed"):
            return self._exited()
        elif event == self._start:
            if not job.each:
                self._start = None
            self._run_command()
        return True

    def _exited(self) -> bool:
        if self._restarts:
            self._run_command()
            return True
        return self._job.each

    def _run_command(self) -> None:
        if self.command is not None:
            self.command.start(self._bus, self._cancelled)

    def _beat(self, interval: int) -> None:
        while not self._cancelled.is_set():
            time.sleep(interval)
            self._events.put(Event("beat", self.name))
