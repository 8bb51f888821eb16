"""What Consul knows of a cluster, read over its HTTP API with nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Endpoint:
    """One advertised instance of a service."""

    node: str
    address: str
    port: int


class Catalogue:
    """Reads from the Consul server at `address`; what it cannot reach reads as empty."""

    def __init__(self, address: str, service_name: str) -> None:
        self._base = f"http://{address}:8500/v1"
        self._service = service_name

    def passing(self, service: str) -> list[Endpoint]:
        """The healthy instances of a service."""
        found = self._get(f"health/service/{service}?passing=1") or []
        return [
            Endpoint(
                one["Service"]["ID"].removeprefix(f"{service}-"),
                one["Service"]["Address"],
                one["Service"]["Port"],
            )
            for one in found
        ]

    @property
    def primary(self) -> Endpoint | None:
        """The healthy primary, or None; two at once read as None, as a client must treat them."""
        found = self.passing(f"{self._service}-primary")
        return found[0] if len(found) == 1 else None

    @property
    def replicas(self) -> list[Endpoint]:
        """The healthy replicas."""
        return self.passing(self._service)

    @property
    def nodes(self) -> set[str]:
        """The names of all nodes that it knows, the dead ones too."""
        service = f"{self._service}-node"
        found = self._get(f"catalog/service/{service}") or []
        return {one["ServiceID"].removeprefix(f"{service}-") for one in found}

    def key(self, name: str) -> bytes | None:
        """The value of a key, None where there is none."""
        found = self._get(f"kv/{name}")
        return base64.b64decode(found[0]["Value"] or "") if found else None

    def force_leave(self, agent: str) -> None:
        """Take a dead agent, and with it its node and services, out of the catalogue."""
        request = urllib.request.Request(f"{self._base}/agent/force-leave/{agent}?prune", method="PUT")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=5.0).close()

    def _get(self, path: str) -> Any:
        with (
            contextlib.suppress(OSError, ValueError),
            urllib.request.urlopen(f"{self._base}/{path}", timeout=2.0) as answer,
        ):
            return json.load(answer)
        return None
