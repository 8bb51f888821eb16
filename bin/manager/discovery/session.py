"""This node's own session, whose id the hooks share through a file.

The session lives as long as the node's agent and its `-node` check, and is renewed by health. The file is
only a hint: the id is checked with Consul at each use.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from manager.discovery.client import Client
from manager.discovery.cluster import service_id, session_name
from manager.errors import SessionInvalid
from manager.flock import flocked
from manager.settings import Settings

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NodeSession:
    """The session of the node that `settings` describe."""

    def __init__(self, settings: Settings, client: Client, *, wait: float = 2.0) -> None:
        self._client = client
        self._name = session_name(settings, settings.node_name)
        self._checks = ("serfHealth", f"service:{service_id(settings, 'node')}")
        self._file = settings.run_dir / "session"
        self._wait = wait

    def ensure(self) -> str:
        """Return the id of a living, renewed session, made anew if need be.

        Whatever else stands under this node's name is destroyed then: a restored Consul brings dead sessions
        back, with the locks they held. SessionInvalid: the `-node` check is missing or critical.
        Busy: another process of this node is at it.
        """
        with self._only_one():
            session = self._cached()
            if session is not None and self._lives(session):
                return session
            self._destroy_all()
            session = self._client.create_session(self._name, self._checks)
            self._remember(session)
            return session

    def renew(self) -> None:
        """Renew the session, waiting for nobody; SessionInvalid if there is none or it is dead."""
        session = self._cached()
        if session is None:
            raise SessionInvalid("this node has no Consul session")
        if self._client.renew_session(session) != self._name:
            raise SessionInvalid("the Consul session in the run directory is another node's")

    def destroy(self) -> None:
        """Destroy every session under this node's name, which frees their locks; none is fine."""
        with self._only_one():
            self._destroy_all()
            self._file.unlink(missing_ok=True)

    def _lives(self, session: str) -> bool:
        try:
            return self._client.renew_session(session) == self._name
        except SessionInvalid:
            return False

    def _destroy_all(self) -> None:
        for session in self._client.sessions():
            if session.get("Name") == self._name:
                self._client.destroy_session(str(session["ID"]))

    def _cached(self) -> str | None:
        """Return the id in the file; None if there is none, or something that is no id."""
        try:
            text = self._file.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return text if _ID.fullmatch(text) else None

    def _remember(self, session: str) -> None:
        new = self._file.with_name("session.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(session)
        os.replace(new, self._file)

    def _only_one(self) -> contextlib.AbstractContextManager[int]:
        """Keep this node's processes from making, and destroying, each other's sessions."""
        busy = "another process of this node is making its Consul session"
        return flocked(self._lock_file, wait=self._wait, busy=busy)

    @property
    def _lock_file(self) -> Path:
        return self._file.with_name("session.lock")
