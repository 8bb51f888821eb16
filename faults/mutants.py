"""Builds of the hooks with one safety rule taken out, to show that the checker finds what the rule prevents.

The nodes of such a run execute a copy of `bin/` in which one place is changed; nothing of it is in the product.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sandbox.packages import ROOT


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """What is changed in which file, and the run that is aimed at it. `seed` begins with the case that matters."""

    file: str
    rule: str
    without: str
    durability: str
    faults: str
    seed: int
    minutes: float = 4.0


MUTANTS = {
    "no-lease": Mutant(
        file="manager/mysql/operations.py",
        rule="(round(lease_s * 1_000_000),)",
        without="(86_400_000_000,)",
        durability="async",
        faults="partition-one:40",
        seed=9,
    ),
    "no-semisync": Mutant(
        file="manager/mysql/semisync.py",
        rule='.source}_enabled = %s", (int(on),))',
        without='.source}_enabled = %s", (0,))',
        durability="semisync",
        faults="partition-one:20",
        seed=9,
    ),
}


def build(mutant: Mutant, directory: Path) -> Path:
    """Make the copy and return it; ValueError if the place is not there exactly once."""
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("bin", "etc"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = directory / "bin" / mutant.file
    text = file.read_text()
    if text.count(mutant.rule) != 1:
        raise ValueError(f"{mutant.file} has {mutant.rule!r} {text.count(mutant.rule)} times, not once")
    file.write_text(text.replace(mutant.rule, mutant.without))
    return directory
