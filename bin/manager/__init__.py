"""Autopilot MySQL: the hooks that turn identical MySQL containers into a cluster."""

__version__ = "0.1.0"
