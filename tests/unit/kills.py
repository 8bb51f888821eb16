"""Ending a step in its middle, as a SIGKILL would."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


class KilledError(BaseException):
    """Nothing catches it, as nothing outlives a SIGKILL."""


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let the given call of a function of `os` be the last thing that happens, before it does anything."""
    calls = [0]
    real: Callable[..., object] = getattr(os, name)

    def last(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == call:
            raise KilledError
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, last)
