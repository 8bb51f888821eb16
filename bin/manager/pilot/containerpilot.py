"""ContainerPilot 3.8 as hooks need it. It registers this node's services itself, once, and renews what passes."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from manager import metrics
from manager.discovery.cluster import Service
from manager.errors import ConfigError
from manager.pilot.advertising import Pilot
from manager.settings import Settings

LOG = logging.getLogger(__name__)

NODE_TTL = 15
"""As etc/containerpilot.json5 has it: the seconds for which `-node` passes without a check."""
HEARTBEAT = "ok"
PUSH_TIME = 2.0
SENT = "metrics.sent.json"
JOBS = ("preStart", "mysqld", "stop", "health", "onChange", "snapshot")
CONFIG = Path(__file__).resolve().parents[3] / "etc" / "containerpilot.json5"


def environment(settings: Settings, bin_dir: Path) -> dict[str, str]:
    """Return what ContainerPilot needs beside the node's environment to render its file and to find the programs.

    ConfigError for settings that ContainerPilot would refuse, or that its file has no room for.
    """
    _check(settings)
    address, port = settings.consul_http
    found = {
        "CONTAINERPILOT": str(CONFIG),
        "PATH": f"{bin_dir}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "CONSUL_URL": f"{settings.consul_scheme}://{f'[{address}]' if ':' in address else address}:{port}",
        "CONSUL_AGENT": "1" if settings.consul_agent else "",
        "SERVICE_NAME": settings.service_name,
        "NODE_ADDRESS": settings.node_address,
        "MYSQL_PORT": str(settings.mysql_port),
        "METRICS_PORT": str(settings.metrics_port) if _is_free(settings) else "",
        "RUN_DIR": str(settings.run_dir),
    }
    if settings.consul_http_token is not None:
        found["CONSUL_HTTP_TOKEN"] = settings.consul_http_token.value
    return found


def _check(settings: Settings) -> None:
    host, service = socket.gethostname(), settings.service_name
    if settings.node_name != host:
        raise ConfigError(f"NODE_NAME: ContainerPilot names a node by its host name, {host}; leave it unset")
    if not re.fullmatch(r"[a-z][a-zA-Z0-9\-]+", service) or service in JOBS:
        raise ConfigError(f"SERVICE_NAME: {service!r} is no name for ContainerPilot: choose another")
    try:
        ipaddress.ip_address(settings.node_address)
    except ValueError:
        raise ConfigError("NODE_ADDRESS: ContainerPilot needs an IP address, not a name") from None


def _is_free(settings: Settings) -> bool:
    """False if the metrics' port is taken: ContainerPilot would end for it (source)."""
    try:
        socket.create_server((settings.node_address, settings.metrics_port)).close()
    except OSError as error:
        LOG.warning("METRICS_PORT: %d cannot be used (%s): no metrics", settings.metrics_port, error.strerror)
        return False
    return True


def push(run_dir: Path) -> None:
    """Give the node's metrics to ContainerPilot's telemetry, which sets gauges, and adds to counters; never raises."""
    values, sent = metrics.read(run_dir), metrics.read(run_dir, SENT)
    if not values:
        return  # without arguments the program would be a second pilot
    # A counter's file may have been begun anew: then all of it is new.
    fresh = {
        name: value - (sent.get(name, 0.0) if value >= sent.get(name, 0.0) else 0.0)
        if name in metrics.COUNTERS
        else value
        for name, value in values.items()
    }
    given = [f"-putmetric={metrics.PREFIX}{name}={value!r}" for name, value in fresh.items()]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["containerpilot", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PUSH_TIME,
            check=True,
        )
        metrics.write(run_dir, SENT, values)


class ContainerPilot(Pilot):
    """Services that ContainerPilot owns: it never registers one again that somebody else removed (measured).

    So nothing is removed: what this node is no longer fails, at once, while ContainerPilot would only let it run
    out. And what Consul has forgotten is registered here, under the same id and with the same check, which
    ContainerPilot's heartbeats then renew.
    """

    def advertise(self, role: Literal["primary", "replica"], *, passing: bool, note: str) -> None:
        """As `Pilot.advertise`; what passes says what ContainerPilot's heartbeats say, or each wakes all watches."""
        super().advertise(role, passing=passing, note=HEARTBEAT if passing else note)

    def answers(self, *, yes: bool) -> None:
        """Register the `-node` service where it is missing, or fail it, and with it this node's session."""
        if not yes:
            self._end((), "node")
            return
        identity = self._id("node")
        check = self._client.own_checks().get(f"service:{identity}")
        if check is None:
            self._register({}, "node", ttl=NODE_TTL, passing=True)
        elif check["Status"] != "passing":
            self._client.report(identity, passing=True, note=HEARTBEAT)

    def _end(self, known: Collection[str], *roles: Service) -> None:
        """Fail the checks of these services, whether `known` or not: what is critical already stays as it is."""
        checks = self._client.own_checks()
        for role in roles:
            check = checks.get(f"service:{self._id(role)}")
            if check is not None and check["Status"] != "critical":
                self._client.report(self._id(role), passing=False, note="this node is not that now")
