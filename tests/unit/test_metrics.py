"""How hooks keep the node's metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from manager import metrics
from manager.pilot import containerpilot


class Heap:
    """A pilot that keeps what it is given."""

    def __init__(self) -> None:
        self.given: dict[str, float] = {}

    def put(self, values: Mapping[str, float]) -> None:
        self.given |= values


def test_gauges_are_set_and_counters_added_to(tmp_path: Path) -> None:
    metrics.add(tmp_path, {"epoch": 3, "failovers_total": 1})
    metrics.add(tmp_path, {"epoch": 4, "failovers_total": 2, "members": 1})
    assert metrics.read(tmp_path) == {"epoch": 4, "failovers_total": 3, "members": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"epoch": "x"}', '{"epoch": null}'])
def test_damaged_values_are_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / metrics.FILE).write_text(text)
    assert metrics.read(tmp_path) == {}
    metrics.add(tmp_path, {"epoch": 1})
    assert metrics.read(tmp_path) == {"epoch": 1}


def test_a_run_is_counted_with_its_time_and_its_error() -> None:
    heap = Heap()
    with metrics.counted(heap, "health"):
        pass
    assert (heap.given["health_runs_total"], heap.given["health_errors_total"]) == (1, 0)
    assert 0 <= heap.given["health_seconds_total"] < 1
    with pytest.raises(ValueError, match="x"), metrics.counted(heap, "health"):
        raise ValueError("x")
    assert heap.given["health_errors_total"] == 1


def test_commands_of_people_are_not_counted() -> None:
    heap = Heap()
    with metrics.counted(heap, "status"):
        pass
    assert heap.given == {}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was put to ContainerPilot since the last call; it succeeds as long as the file `fails` is missing."""
    program = tmp_path / "containerpilot"
    lines = (
        "#!/bin/sh",
        'for word in "$@"; do echo "$word"; done >"${0%/*}/said"',
        '[ ! -e "${0%/*}/fails" ]',
    )
    program.write_text("\n".join([*lines, ""]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def read() -> list[str]:
        return (tmp_path / "said").read_text().splitlines()

    return read


def test_containerpilot_gets_gauges_and_what_was_added_to_counters(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    metrics.add(tmp_path, {"epoch": 3, "failovers_total": 2})
    containerpilot.push(tmp_path)
    assert said() == [
        "-putmetric=autopilot_mysql_epoch=3.0",
        "-putmetric=autopilot_mysql_failovers_total=2.0",
    ]
    metrics.add(tmp_path, {"failovers_total": 1})
    containerpilot.push(tmp_path)
    assert said() == [
        "-putmetric=autopilot_mysql_epoch=3.0",
        "-putmetric=autopilot_mysql_failovers_total=1.0",
    ]


def test_what_containerpilot_did_not_take_is_given_again(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    metrics.add(tmp_path, {"failovers_total": 2})
    (tmp_path / "fails").touch()
    containerpilot.push(tmp_path)
    (tmp_path / "fails").unlink()
    containerpilot.push(tmp_path)
    assert said() == ["-putmetric=autopilot_mysql_failovers_total=2.0"]


def test_a_counter_that_was_begun_anew_is_new(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    metrics.add(tmp_path, {"failovers_total": 5})
    containerpilot.push(tmp_path)
    (tmp_path / metrics.FILE).unlink()
    metrics.add(tmp_path, {"failovers_total": 1})
    containerpilot.push(tmp_path)
    assert said() == ["-putmetric=autopilot_mysql_failovers_total=1.0"]


def test_while_there_is_nothing_to_give_no_second_containerpilot_is_started(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    containerpilot.push(tmp_path)
    assert not (tmp_path / "said").exists()


def test_without_containerpilot_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    metrics.add(tmp_path, {"epoch": 3})
    containerpilot.push(tmp_path)


def test_names_and_units_follow_the_conventions_of_prometheus() -> None:
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    for metric in metrics.METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", f"{metrics.PREFIX}{metric.name}")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
