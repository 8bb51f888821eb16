"""Where log lines go, and what a check's output is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager import log

LOG = logging.getLogger("manager.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("manager")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def test_without_a_log_file_everything_goes_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOPILOT_LOG", raising=False)
    log.configure("INFO", "health", ["secret-1"])
    LOG.info("a step with secret-1")
    assert capsys.readouterr().err.endswith("a step with ***\n")


def test_with_one_a_check_says_only_why_it_fails_and_always_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOPILOT_LOG", str(tmp_path / "log"))
    log.configure("DEBUG", "health", ["secret-1"])
    LOG.debug("seen")
    LOG.warning("odd")
    LOG.error("the server is away: secret-1")
    assert capsys.readouterr().err == "the server is away: ***\n"
    assert [line.split("] ")[1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "seen",
        "odd",
        "the server is away: ***",
    ]


def test_a_log_file_that_is_gone_leaves_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOPILOT_LOG", str(tmp_path / "nowhere" / "log"))
    log.configure("INFO", "health", [])
    LOG.info("a step")
    assert capsys.readouterr().err.endswith("a step\n")


def test_at_no_level_does_a_library_show_what_it_sends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOPILOT_LOG", raising=False)
    log.configure("DEBUG", "health", [])
    logging.getLogger("botocore.endpoint").debug("a header")
    logging.getLogger("urllib3.connectionpool").info("a request")
    LOG.debug("a step")
    assert [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()] == ["a step"]
