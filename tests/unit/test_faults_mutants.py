"""The mutants of the hooks are still what they say: one place in one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.mutants import MUTANTS, build
from faults.schedule import schedule, selected
from sandbox.packages import ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_differs_in_one_line(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    built = build(mutant, tmp_path / "build") / "bin" / mutant.file
    before, after = (path.read_text().splitlines() for path in (ROOT / "bin" / mutant.file, built))
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("name", MUTANTS)
def test_its_schedule_begins_with_the_primary_that_only_its_clients_reach(name: str) -> None:
    mutant = MUTANTS[name]
    (first,) = next(schedule(mutant.seed, selected(mutant.faults.split(), root=True)))
    assert first.target == "primary"
    assert first.dice[0] >= 0.5


def test_a_rule_that_is_not_there_is_said(tmp_path: Path) -> None:
    missing = MUTANTS["no-lease"].__class__(
        file="manage.py", rule="no such text", without="", durability="async", faults="node-kill", seed=1
    )
    with pytest.raises(ValueError, match="0 times, not once"):
        build(missing, tmp_path / "build")
