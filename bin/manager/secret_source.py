"""Settings from the user's own source, such as a key-management system (SECRETS=module:callable)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from manager.errors import AutopilotError, ConfigError


def call(spec: str) -> dict[str, str]:
    """Call `spec` (module:callable; empty = none) and return its settings, which win over all others.

    ConfigError: it cannot be imported or returns something else. AutopilotError: it failed.
    """
    if not spec:
        return {}
    module, _, name = spec.partition(":")
    try:
        source = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"SECRETS: cannot import {spec!r}; it must be module:callable") from None
    try:
        found = source()
    except AutopilotError:
        raise
    except Exception as error:
        # The text of somebody else's exception may hold a secret.
        raise AutopilotError(f"SECRETS: {spec} failed with {type(error).__name__}") from None
    if not isinstance(found, Mapping) or not all(
        isinstance(text, str) for pair in found.items() for text in pair
    ):
        raise ConfigError(f"SECRETS: {spec} must return a mapping of text to text")
    # What was given here also wins over a file named in the environment.
    return {**{f"{key}_FILE": "" for key in found}, **found}
