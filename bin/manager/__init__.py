"""Autopilot MySQL: the hooks that turn identical MySQL containers into a cluster."""

__version__ = "1.0.0"
"""The semantic version; pyproject.toml takes it from here."""
