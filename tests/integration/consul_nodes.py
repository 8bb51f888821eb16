"""Consul servers, agents and settings for the tests of discovery."""

from __future__ import annotations

import contextlib
import itertools
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manager import settings as settings_module
from manager.discovery.client import Client
from manager.discovery.discovery import Discovery
from manager.pilot import Pilot, open_pilot
from manager.settings import Settings
from sandbox import servers
from sandbox.packages import Packages

_numbers = itertools.count(1)


def request(address: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Send one request to Consul's API past the code under test; returns the decoded answer."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    call = urllib.request.Request(
        f"http://{address}:8500/v1/{path}", data=data, method=method, headers=headers
    )
    with urllib.request.urlopen(call, timeout=10.0) as answer:
        content = answer.read()
    return content if path == "snapshot" else json.loads(content or b"null")


def make_settings(service: str, run_dir: Path, *, node: str, address: str, **environ: str) -> Settings:
    """Settings of a node that has its own agent at its address."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return settings_module.load(
        {
            "SERVICE_NAME": service,
            "NODE_NAME": node,
            "NODE_ADDRESS": address,
            "CONSUL": address,
            "CONSUL_AGENT": "1",
            "CONSUL_CLIENT_ADDRESS": address,
            "RUN_DIR": str(run_dir),
            **environ,
        }
    )


@dataclass(frozen=True)
class Node:
    """One node of a test's own service: its settings, and Consul as its hooks see it."""

    settings: Settings
    discovery: Discovery

    @property
    def pilot(self) -> Pilot:
        """What its hooks ask of its pilot."""
        return open_pilot(self.settings)

    @property
    def client(self) -> Client:
        """A client of its own, for looking and for disturbing."""
        return Client(self.settings)

    @property
    def service_id(self) -> str:
        """The id of its `-node` registration."""
        return f"{self.settings.node_service}-{self.settings.node_name}"

    @property
    def session_file(self) -> Path:
        """Where the session's id is kept."""
        return self.settings.run_dir / "session"

    def mysqld(self, *, answers: bool) -> None:
        """Say what the node's own check would find."""
        self.client.report(self.service_id, passing=answers, note="")

    def listed(self) -> list[str]:
        """The ids of all sessions under this node's name."""
        name = f"mysql-primary-lock/{self.settings.service_name}/{self.settings.node_name}"
        return [
            one["ID"]
            for one in request(self.settings.node_address, "GET", "session/list")
            if one["Name"] == name
        ]


def make_node(service: str, run_dir: Path, *, node: str, address: str, **environ: str) -> Node:
    """A node whose `-node` service is registered and passing."""
    settings = make_settings(service, run_dir, node=node, address=address, **environ)
    made = Node(settings, Discovery(settings))
    made.client.register(
        name=settings.node_service,
        service_id=made.service_id,
        address=address,
        port=settings.mysql_port,
        ttl=600,
        passing=True,
    )
    return made


def new_service() -> str:
    """A SERVICE_NAME that no other test uses: tests share their module's Consul."""
    return f"test{next(_numbers)}"


@contextlib.contextmanager
def three_agents(packages: Packages, directory: Path, number: int) -> Iterator[tuple[str, str, str]]:
    """Run a server at 127.0.42.<number>0 and client agents at the next two addresses; yields all three."""
    server, one, two = (f"127.0.42.{number}{last}" for last in range(3))
    with contextlib.ExitStack() as stack:
        stack.enter_context(servers.consul_server(packages, directory / "server", address=server))
        for name, address in (("node-1", one), ("node-2", two)):
            stack.enter_context(
                servers.consul_agent(packages, directory / name, address=address, server=server, name=name)
            )
        yield server, one, two
