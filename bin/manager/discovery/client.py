"""The one place that speaks with Consul, over py-consul.

Every call is bounded, carries the token, and ends in a value or in one of our own errors. Traps of the
library that this module closes (measured with 1.8.0): an empty session id turns an acquire into a plain
PUT; transactions carry no token and know no consistency mode; network errors come as exceptions of
requests; CONSUL_HTTP_TOKEN wins over the token that was given; requests reads proxies and ~/.netrc.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import consul
import requests
from consul.callback import CB

from manager.errors import (
    ConsulDenied,
    ConsulError,
    ConsulUnavailable,
    SessionInvalid,
    TransactionRefused,
)
from manager.settings import Settings

SESSION_TTL = 10  # seconds: the least that Consul takes; a session dies at twice that after its last renewal


@dataclass(frozen=True)
class Key:
    """One entry of the KV as it was read."""

    value: bytes
    index: int
    session: str | None

    @property
    def text(self) -> str:
        """The value as text; what is no UTF-8 is replaced, and left to a parser to refuse."""
        return self.value.decode("utf-8", "replace")


class Operation:
    """Operations of a transaction, as Consul's API wants them (`/v1/txn`)."""

    @staticmethod
    def lock(key: str, value: str, session: str) -> dict[str, Any]:
        """Lock `key`; succeeds again for the session that holds it."""
        return _operation("lock", key, Value=_encode(value), Session=_checked(session))

    @staticmethod
    def unlock(key: str, value: str, session: str) -> dict[str, Any]:
        """Unlock `key`, which `session` must hold."""
        return _operation("unlock", key, Value=_encode(value), Session=_checked(session))

    @staticmethod
    def check_session(key: str, session: str) -> dict[str, Any]:
        """Refuse the whole unless `session` holds `key`."""
        return _operation("check-session", key, Session=_checked(session))

    @staticmethod
    def cas(key: str, value: str, index: int) -> dict[str, Any]:
        """Set `key` if its index is `index`; 0: if it does not exist."""
        return _operation("cas", key, Value=_encode(value), Index=index)

    @staticmethod
    def set(key: str, value: str) -> dict[str, Any]:
        """Set `key`; only for keys that are no locks, behind a check in the same transaction."""
        return _operation("set", key, Value=_encode(value))

    @staticmethod
    def delete(key: str) -> dict[str, Any]:
        """Remove `key`; only for keys that are no locks. One that is not there is fine."""
        return _operation("delete", key)

    @staticmethod
    def delete_unchanged(key: str, index: int) -> dict[str, Any]:
        """Remove `key` if its index is `index`."""
        return _operation("delete-cas", key, Index=index)


class Client:
    """Consul's API as the rest needs it. All methods may raise ConsulUnavailable, ConsulDenied, ConsulError.

    `timeout` (seconds) bounds the connect, and the answer, of each call; for one thread at a time.
    """

    def __init__(self, settings: Settings, *, timeout: float = 2.0) -> None:
        self._host, self._port = settings.consul_http
        verify = settings.consul_cacert if settings.consul_cacert is not None else True
        self._consul = consul.Consul(
            host=f"[{self._host}]" if ":" in self._host else self._host,
            port=self._port,
            scheme=settings.consul_scheme,
            verify=verify,
            consistency="default",
            connections_timeout=timeout,
        )
        self._consul.token = settings.consul_http_token.value if settings.consul_http_token else None
        self._consul.http.session.trust_env = False

    # --- KV -------------------------------------------------------------------------------------

    def read(self, keys: Sequence[str]) -> dict[str, Key]:
        """Return those of `keys` that exist, from one consistent read."""
        # `get` fails as a whole where one key is missing; `get-tree` returns whatever begins with the key.
        wanted = set(keys)
        answer = self._transaction([_operation("get-tree", key) for key in keys], [("consistent", "1")])
        found = {entry["KV"]["Key"]: _key(entry["KV"]) for entry in answer["Results"] or ()}
        return {name: key for name, key in found.items() if name in wanted}

    def read_below(self, prefix: str) -> dict[str, Key]:
        """Return all keys that begin with `prefix`, from one consistent read."""
        answer = self._transaction([_operation("get-tree", prefix)], [("consistent", "1")])
        return {entry["KV"]["Key"]: _key(entry["KV"]) for entry in answer["Results"] or ()}

    def check_readable(self, key: str) -> None:
        """Raise ConsulDenied where an ACL hides `key`: a transaction's read shows a hidden key as missing."""
        with self._errors():
            self._consul.kv.get(key, consistency="consistent")

    def transaction(self, operations: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Do all of `operations` or none; return the new index of each key that was written.

        TransactionRefused: nothing was changed. ConsulUnavailable: it may have been, or may yet be.
        """
        answer = self._transaction(operations, [])
        written = [entry["KV"] for entry in answer["Results"] or () if entry.get("KV")]
        return {entry["Key"]: int(entry["ModifyIndex"]) for entry in written}

    def _transaction(
        self, operations: Sequence[dict[str, Any]], params: list[tuple[str, str]]
    ) -> Mapping[str, Any]:
        with self._errors():
            status, body = self._consul.http.put(
                lambda response: (response.code, response.body),
                "/v1/txn",
                params=params,
                headers=self._consul.prepare_headers(),
                data=json.dumps(list(operations)),
            )
            if status != 409:
                return _mapping(CB.json()(_Response(status, body)))
        raise _refusal(body, operations)

    # --- Sessions -------------------------------------------------------------------------------

    def create_session(self, name: str, checks: Sequence[str]) -> str:
        """Create a session without lock delay on the agent we talk to; return its id.

        SessionInvalid: one of `checks` is missing or critical.
        """
        with self._errors():
            return str(
                self._consul.session.create(
                    name=name, checks=list(checks), lock_delay=0, behavior="release", ttl=SESSION_TTL
                )
            )

    def renew_session(self, session: str) -> str:
        """Renew the session and return its name; SessionInvalid if it is dead."""
        with self._errors():
            return str(_mapping(self._consul.session.renew(_checked(session))).get("Name", ""))

    def destroy_session(self, session: str) -> None:
        """Destroy the session, which frees its locks at once; a dead one is fine."""
        with self._errors():
            self._consul.session.destroy(_checked(session))

    def sessions(self) -> list[Mapping[str, Any]]:
        """Return all sessions, in the order of their creation; those that an ACL hides are missing."""
        with self._errors():
            _, found = self._consul.session.list(consistency="consistent")
            return sorted(found or (), key=lambda session: int(session["CreateIndex"]))

    # --- Services -------------------------------------------------------------------------------

    def service(self, name: str) -> list[Mapping[str, Any]]:
        """Return the instances of a service with their checks, healthy or not.

        ConsulDenied where an ACL hides the service: Consul answers then as if there were no instance.
        """
        with self._errors():
            _, found = self._consul.health.service(name)
            if not found:
                # The agent's own view does say 403. Its other statuses tell the health of what it has itself.
                status = self._consul.http.get(
                    lambda response: response.code,
                    f"/v1/agent/health/service/name/{name}",
                    headers=self._consul.prepare_headers(),
                )
                if status == 403:
                    raise consul.ACLPermissionDenied(f"reading service {name}")
            return list(found or ())

    def own_services(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what is registered at the agent, by service id."""
        with self._errors():
            return _mapping(self._consul.agent.services())

    def own_checks(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the checks that the agent keeps itself, by check id."""
        with self._errors():
            return _mapping(self._consul.agent.checks())

    def register(
        self, *, name: str, service_id: str, address: str, port: int, ttl: int, passing: bool
    ) -> None:
        """Register a service with a TTL check (`service:{service_id}`) at the agent."""
        check = {"TTL": f"{ttl}s", "Status": "passing" if passing else "critical"}
        with self._errors():
            self._consul.agent.service.register(
                name, service_id=service_id, address=address, port=port, check=check
            )

    def deregister(self, service_id: str) -> None:
        """Remove a service from the agent."""
        with self._errors():
            self._consul.agent.service.deregister(service_id)

    def deregister_elsewhere(self, node: str, service_id: str) -> None:
        """Remove a service of another node from the catalogue; its agent puts it back with what it says then."""
        with self._errors():
            self._consul.catalog.deregister(node, service_id=service_id)

    def report(self, service_id: str, *, passing: bool, note: str) -> None:
        """Give the service's TTL check its state for one more TTL, with a note for people."""
        check = self._consul.agent.check
        with self._errors():
            known = (check.ttl_pass if passing else check.ttl_fail)(f"service:{service_id}", notes=note)
        if not known:
            raise ConsulError(f"the agent does not know the service {service_id}")

    def has_leader(self) -> bool:
        """True if the agent reaches servers that have a leader."""
        try:
            with self._errors():
                return bool(self._consul.status.leader())
        except ConsulUnavailable:
            return False

    def join(self, address: str) -> None:
        """Let the agent join the member at `address`, whether it was one before or not."""
        with self._errors():
            self._consul.agent.join(address)

    # --- Errors ---------------------------------------------------------------------------------

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Map every error of py-consul and requests to one of ours."""
        where = f"Consul at {self._host}:{self._port}"
        try:
            yield
        except requests.Timeout:
            raise ConsulUnavailable(f"{where} did not answer in time (CONSUL)") from None
        except requests.exceptions.SSLError:
            raise ConsulUnavailable(f"{where}: its TLS certificate is not accepted (CONSUL_CACERT)") from None
        except requests.RequestException as error:
            raise ConsulUnavailable(f"{where} cannot be reached: {_reason(error)} (CONSUL)") from None
        except OSError as error:
            # What requests lets through: a certificate authority that it cannot load.
            raise ConsulUnavailable(f"{where} cannot be reached: {_line(error)} (CONSUL_CACERT)") from None
        except (consul.ACLPermissionDenied, consul.ACLDisabled) as error:
            raise ConsulDenied(
                f"{where} denies it: {_line(error)}; check CONSUL_HTTP_TOKEN and its policy"
            ) from None
        except consul.NotFound as error:
            raise SessionInvalid(_line(error)) from None
        except consul.ConsulException as error:
            raise _mapped(where, _line(error)) from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConsulError(f"{where} sent an answer that is not Consul's") from None


@dataclass(frozen=True)
class _Response:
    """What the callbacks of py-consul read."""

    code: int
    body: str


def _operation(verb: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"KV": {"Verb": verb, "Key": key, **fields}}


def _encode(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _key(entry: Mapping[str, Any]) -> Key:
    value = base64.b64decode(entry.get("Value") or "")
    return Key(value=value, index=int(entry["ModifyIndex"]), session=entry.get("Session") or None)


def _checked(session: str) -> str:
    """Return the id; SessionInvalid for an empty one, with which Consul would do something else."""
    if not session:
        raise SessionInvalid("there is no session")
    return session


def _mapping(answer: Any) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise TypeError
    return answer


def _refusal(body: str, operations: Sequence[Mapping[str, Any]]) -> ConsulError:
    """Say which operation failed and why; the texts name keys and sessions, never values."""
    try:
        errors = [(operations[e["OpIndex"]]["KV"], str(e["What"])) for e in json.loads(body)["Errors"]]
    except (ValueError, LookupError, TypeError):
        return TransactionRefused("Consul refused the transaction without a reason")
    reasons = "; ".join(f"{operation['Verb']} {operation['Key']}: {what}" for operation, what in errors)
    if any("Permission denied" in what for _, what in errors):
        return ConsulDenied(f"Consul denies it: {reasons}; check CONSUL_HTTP_TOKEN and its policy")
    return TransactionRefused(f"Consul refused the transaction: {reasons}")


def _mapped(where: str, text: str) -> ConsulError:
    """Classify Consul's other errors; those of the server's side say nothing about the call's effect."""
    lower = text.lower()
    if "permission denied" in lower or "acl not found" in lower:
        return ConsulDenied(f"{where} denies it: {text}; check CONSUL_HTTP_TOKEN and its policy")
    if "invalid session" in lower or "is in critical state" in lower or "missing check" in lower:
        return SessionInvalid(text)
    if "session lookup" in lower and "uuid" in lower:
        return SessionInvalid(text)
    if "does not have associated ttl" in lower:
        return ConsulError(f"{where}: {text}")
    if text.startswith(("5", "429")):
        return ConsulUnavailable(f"{where} has no answer: {text}")
    return ConsulError(f"{where} refuses it: {text}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _reason(error: requests.RequestException) -> str:
    """The operating system's words out of the library's nested texts."""
    text = _line(error)
    for known in ("Connection refused", "No route to host", "Network is unreachable", "Connection reset"):
        if known in text:
            return known.lower()
    if "resolve" in text or "Name or service" in text:
        return "its name is unknown"
    return type(error).__name__
