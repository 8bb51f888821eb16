"""What runs the hooks, and what hooks ask of it: ContainerPilot, or a Consul agent under supervisord (SPEC 8)."""

from __future__ import annotations

from manager.pilot.advertising import Pilot
from manager.pilot.containerpilot import ContainerPilot
from manager.settings import Settings

__all__ = ["Pilot", "open_pilot"]


def open_pilot(settings: Settings, *, timeout: float = 2.0) -> Pilot:
    """Return the pilot that PILOT names, as hooks see it; `timeout` bounds each call to Consul, in seconds."""
    if settings.pilot == "containerpilot":
        return ContainerPilot(settings, timeout=timeout)
    return Pilot(settings, timeout=timeout)
