"""What ContainerPilot does with Consul: registers a service once, renews it, takes it out, and polls its watches."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from typing import Any

from tests.containerpilot.events import Bus, Event


class Consul:
    """Consul's API; without any time limit, as ContainerPilot's client has none (measured)."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer; OSError where there is none, or Consul refuses."""
        headers = {}
        if os.environ.get("CONSUL_HTTP_TOKEN"):
            headers["X-Consul-Token"] = os.environ["CONSUL_HTTP_TOKEN"]
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(f"{self._url}/v1/{path}", data=data, method=method, headers=headers)
        with urllib.request.urlopen(call) as answer:
            return json.loads(answer.read() or b"null")


class Service:
    """One advertised job."""

    def __init__(self, consul: Consul, *, name: str, host: str, address: str, port: int, ttl: int) -> None:
        self._consul = consul
        self._id = f"{name}-{host}"
        self._registered = False
        self._body = {
            "ID": self._id,
            "Name": name,
            "Address": address,
            "Port": port,
            "Check": {"TTL": f"{ttl}s", "Status": "passing"},
        }

    def heartbeat(self) -> None:
        """Register it, at the first passing check and never again; then let it pass for one more TTL."""
        try:
            if not self._registered:
                self._consul.call("PUT", "agent/service/register", self._body)
                self._registered = True
            update = {"Status": "passing", "Output": "ok"}
            self._consul.call("PUT", f"agent/check/update/service:{self._id}", update)
        except OSError as error:
            print(f"containerpilot: {self._id}: {error}", flush=True)

    def deregister(self) -> None:
        """Take it out of Consul."""
        try:
            self._consul.call("PUT", f"agent/service/deregister/{self._id}")
        except OSError as error:
            print(f"containerpilot: {self._id}: {error}", flush=True)


def watch(consul: Consul, bus: Bus, name: str, interval: int, ended: threading.Event) -> None:
    """Publish `changed` when number, address or port of the passing instances change; errors are no event."""
    known: list[tuple[str, int]] = []
    while not ended.wait(interval):
        try:
            entries = consul.call("GET", f"health/service/{name}?passing=1")
        except (OSError, urllib.error.URLError, ValueError):
            continue
        found = sorted((one["Service"]["Address"], one["Service"]["Port"]) for one in entries)
        if found != known:
            known = found
            bus.publish(Event("changed", f"watch.{name}"))
            bus.publish(Event("healthy" if found else "unhealthy", f"watch.{name}"))
