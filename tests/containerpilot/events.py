"""ContainerPilot's event bus: every event goes to every subscriber, all of them in one order (source, 3.8)."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """What happened, and to what."""

    code: str
    source: str


SIZE = 1000
"""What a subscriber can have unread; then whoever publishes waits, and everybody with him (source)."""
STARTUP = Event("startup", "")
SHUTDOWN = Event("shutdown", "")


class Bus:
    """The subscribers and their queues; done when the last job has gone."""

    def __init__(self) -> None:
        self._queues: dict[str, queue.Queue[Event]] = {}
        self._lock = threading.Lock()
        self.empty = threading.Event()

    def subscribe(self, name: str) -> queue.Queue[Event]:
        """Return the queue of a new subscriber."""
        with self._lock:
            self._queues[name] = queue.Queue(SIZE)
            return self._queues[name]

    def leave(self, name: str) -> None:
        """Send no more to a subscriber."""
        with self._lock:
            del self._queues[name]
            if not self._queues:
                self.empty.set()

    def publish(self, event: Event) -> None:
        """Send an event to all subscribers."""
        with self._lock:
            for each in self._queues.values():
                each.put(event)
