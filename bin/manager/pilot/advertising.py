"""How a node shows itself: its services in Consul, and its metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from manager import metrics
from manager.discovery.client import Client
from manager.discovery.cluster import Instance, Service, service_id, service_name
from manager.settings import Settings

ROLE_TTL = 10  # seconds after which a role that health no longer confirms turns critical


class Pilot:
    """This node as its hooks show it, under a Consul agent: its check is the `-node` service, and roles come and go.

    Every call to Consul is bounded by `timeout`, and raises ConsulUnavailable, ConsulDenied or ConsulError.
    """

    def __init__(self, settings: Settings, *, timeout: float = 2.0) -> None:
        self._settings = settings
        self._client = Client(settings, timeout=timeout)

    def advertise(self, role: Literal["primary", "replica"], *, passing: bool, note: str) -> None:
        """Make the agent show this node in `role` and no other, passing or not, for ROLE_TTL seconds."""
        known = self._client.own_services()
        self._end(known, "replica" if role == "primary" else "primary")
        self._register(known, role, ttl=ROLE_TTL, passing=passing)
        self._client.report(self._id(role), passing=passing, note=note)

    def withdraw(self) -> None:
        """Show this node in no role."""
        self._end(self._client.own_services(), "primary", "replica")

    def keep_advertised(self) -> None:
        """Keep what the agent shows passing of this node as it is, for another ROLE_TTL seconds.

        For a node whose Consul server does not answer: an agent that has a change to tell it, a check that ran out
        or said something else, runs no more checks until it gives up, after more than 20 s (measured, 1.8).
        """
        checks = self._client.own_checks()
        for role in ("primary", "replica"):
            check = checks.get(f"service:{self._id(role)}")
            if check is not None and check["Status"] == "passing":
                self._client.report(self._id(role), passing=True, note=check["Output"])

    def take_place_of(self, others: Iterable[Instance]) -> None:
        """Remove what other nodes advertise as the primary although this node is.

        One that is cut off from Consul cannot take it back, nor can its agent tell that it ran out.
        """
        for other in others:
            self._client.deregister_elsewhere(*other.entry)

    def answers(self, *, yes: bool) -> None:
        """Tell whether this node's server answers; the agent finds out by the exit code of `health`."""

    def leave(self) -> None:
        """Take all of this node's services out, and with them the check that runs its hooks."""
        self._deregister(self._client.own_services(), "node", "primary", "replica")

    def put(self, values: Mapping[str, float]) -> None:
        """Set gauges, and add to counters (metrics.METRICS); never raises, since nothing hangs on them."""
        with contextlib.suppress(OSError):
            metrics.add(self._settings.run_dir, values)

    # --- Registrations --------------------------------------------------------------------------

    def _register(
        self, known: Mapping[str, Mapping[str, object]], service: Service, *, ttl: int, passing: bool
    ) -> None:
        """Register this node in a service, unless it is there with the address that it has now."""
        settings, identity = self._settings, self._id(service)
        shown = known.get(identity)
        if shown is None or (shown["Address"], shown["Port"]) != (settings.node_address, settings.mysql_port):
            self._client.register(
                name=service_name(settings, service),
                service_id=identity,
                address=settings.node_address,
                port=settings.mysql_port,
                ttl=ttl,
                passing=passing,
            )

    def _end(self, known: Collection[str], *roles: Service) -> None:
        self._deregister(known, *roles)

    def _deregister(self, known: Collection[str], *services: Service) -> None:
        for service in services:
            if self._id(service) in known:
                self._client.deregister(self._id(service))

    def _id(self, service: Service) -> str:
        return service_id(self._settings, service)
