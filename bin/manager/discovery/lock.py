"""Locks that one process holds while it works: the failover's and the snapshot's.

Each has a session of its own, which a thread renews; the failover's ends with its node's agent as well. A
lock is never written but under a check of that session, so whoever has lost it cannot disturb the next.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from manager.discovery.client import SESSION_TTL, Client, Operation
from manager.discovery.cluster import session_name
from manager.errors import ConsulError, LockHeld, LockLost, SessionInvalid, TransactionRefused
from manager.settings import Settings

_RENEWAL = SESSION_TTL / 4
_log = logging.getLogger(__name__)


class Lock:
    """A context manager that holds `key`; entering raises LockHeld if another session has it.

    The value is JSON for people and for other hooks: name of the node, reason, step, and `at`, the time of
    the step in seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        *,
        what: str,
        reason: str,
        timeout: float = 2.0,
        checks: Sequence[str] = (),
    ) -> None:
        self.key = key
        self.session = ""
        self._settings = settings
        self._what = what
        self._reason = reason
        self._checks = checks
        self._client = Client(settings, timeout=timeout)
        self._renewer = _Renewer(Client(settings, timeout=timeout))

    def __enter__(self) -> Lock:
        name = f"{session_name(self._settings, self._settings.node_name)}/{self._what}"
        asked = time.monotonic()
        self.session = self._client.create_session(name, checks=self._checks)
        try:
            self._client.transaction([Operation.lock(self.key, self._value("begin"), self.session)])
        except TransactionRefused:
            self._let_go()
            raise LockHeld(f"the {self._what} lock is held{self._holder()}") from None
        except BaseException:
            self._let_go()
            raise
        self._renewer.begin(self.session, asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewer.end()
        self._let_go()

    def check(self) -> None:
        """Raise LockLost unless the session was renewed within its TTL; asks nobody."""
        if not self._renewer.alive:
            raise LockLost(f"the {self._what} lock is lost: its session could not be renewed")

    def step(self, text: str) -> None:
        """Write the step into the lock's value; LockLost if the lock is no longer ours."""
        self.check()
        _log.debug("%s: %s", self._what, text)
        try:
            self._client.transaction(
                [
                    Operation.check_session(self.key, self.session),
                    Operation.lock(self.key, self._value(text), self.session),
                ]
            )
        except (TransactionRefused, SessionInvalid):
            raise LockLost(f"the {self._what} lock is lost: Consul has ended its session") from None

    def _value(self, step: str) -> str:
        return json.dumps(
            {
                "name": self._settings.node_name,
                "reason": self._reason,
                "step": step,
                "at": round(time.time(), 3),
            }
        )

    def _holder(self) -> str:
        """Return ` by NODE` if the lock's value names it."""
        try:
            key = self._client.read([self.key]).get(self.key)
            return f" by {json.loads(key.text)['name']}" if key else ""
        except (ConsulError, ValueError, LookupError, TypeError):
            return ""

    def _let_go(self) -> None:
        """Destroy the session, which frees the lock; if that fails it ends by itself after twice its TTL."""
        try:
            self._client.destroy_session(self.session)
        except ConsulError as error:
            _log.warning("the %s lock stays for up to %d s: %s", self._what, 2 * SESSION_TTL, error)


class _Renewer:
    """Renews one session from a thread, with a client of its own, until told to end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="session-renewal")
        self._session = ""
        self._renewed = 0.0
        self._dead = False

    @property
    def alive(self) -> bool:
        """False once Consul has refused a renewal, or has confirmed none for a whole TTL."""
        return not self._dead and time.monotonic() - self._renewed < SESSION_TTL

    def begin(self, session: str, made: float) -> None:
        """`made` is a time on the monotonic clock from before the session was made."""
        self._session, self._renewed = session, made
        self._thread.start()

    def end(self) -> None:
        """Let the thread end; does not wait for a call on its way."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_RENEWAL):
            asked = time.monotonic()
            try:
                self._client.renew_session(self._session)
                self._renewed = asked
            except SessionInvalid:
                self._dead = True
                return
            except ConsulError as error:
                _log.debug("the lock's session was not renewed: %s", error)
