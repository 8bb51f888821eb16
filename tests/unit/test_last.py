"""What pilots are told that ask for each advertisement by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from manager.hooks import last


def test_before_the_first_run_everything_is_denied(tmp_path: Path) -> None:
    assert [last.answer(tmp_path, ask) for ask in last.QUESTIONS] == [2, 2, 2]
    assert not last.was_primary(tmp_path)


@pytest.mark.parametrize(("role", "other"), [("primary", "replica"), ("replica", "primary")])
def test_a_healthy_role_is_confirmed_and_the_other_denied(tmp_path: Path, role: str, other: str) -> None:
    last.keep(tmp_path, role=role, healthy=True, reason="fine")
    assert (last.answer(tmp_path, role), last.answer(tmp_path, other)) == (0, 2)
    assert last.was_primary(tmp_path) is (role == "primary")


def test_an_unhealthy_role_is_denied(tmp_path: Path) -> None:
    last.keep(tmp_path, role="replica", healthy=False, reason="it lags")
    assert last.answer(tmp_path, "replica") == 2


def test_what_was_found_counts_for_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last.keep(tmp_path, role="primary", healthy=True, reason="fine")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + last.AGE - 1)
    assert last.answer(tmp_path, "primary") == 0
    monkeypatch.setattr(time, "time", lambda: now + last.AGE + 1)
    assert last.answer(tmp_path, "primary") == 2
    monkeypatch.setattr(time, "time", lambda: now - 1)
    assert last.answer(tmp_path, "primary") == 2


def test_before_a_start_everything_is_forgotten(tmp_path: Path) -> None:
    last.keep(tmp_path, role="primary", healthy=True, reason="fine")
    last.answered(tmp_path, yes=True)
    last.forget(tmp_path)
    last.forget(tmp_path)
    assert [last.answer(tmp_path, ask) for ask in last.QUESTIONS] == [2, 2, 2]


def test_a_server_that_answered_lately_is_alive(tmp_path: Path) -> None:
    last.answered(tmp_path, yes=True)
    assert last.answer(tmp_path, "alive") == 0
    old = time.time() - last.AGE - 1
    os.utime(tmp_path / last.ANSWERED, (old, old))
    assert last.answer(tmp_path, "alive") == 2


def test_one_that_is_silent_is_not(tmp_path: Path) -> None:
    last.answered(tmp_path, yes=True)
    last.answered(tmp_path, yes=False)
    last.answered(tmp_path, yes=False)
    assert last.answer(tmp_path, "alive") == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"role": "primary"}', '{"role": "primary", "healthy": true, "at": "x"}']
)
def test_a_damaged_verdict_is_no_verdict(tmp_path: Path, text: str) -> None:
    (tmp_path / last.VERDICT).write_text(text)
    assert last.answer(tmp_path, "primary") == 2
