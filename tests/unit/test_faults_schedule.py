"""The seed decides everything that happens; partitions cut exactly what they say."""

from __future__ import annotations

import os
import shlex
import subprocess
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.__main__ import parser
from faults.partitions import Hosts, partition
from faults.schedule import KINDS, Planned, schedule, selected
from tests.documents import ROOT, the_block

NAMES = list(KINDS)
PARTITIONS = [name for name in NAMES if name.startswith("partition-")]
HOSTS = Hosts(target="n1", nodes=("n1", "n2", "n3"), consul="c", s3="s", here="h")


EVERYTHING = dict.fromkeys(NAMES)


def flat(seed: int, count: int) -> list[Planned]:
    return [one for group in islice(schedule(seed, EVERYTHING), count) for one in group]


@given(st.integers())
def test_the_seed_reproduces_the_schedule(seed: int) -> None:
    assert flat(seed, 30) == flat(seed, 30)


def test_another_seed_is_another_schedule() -> None:
    assert flat(1, 10) != flat(2, 10)


def test_every_kind_comes_once_before_any_comes_again() -> None:
    planned = flat(7, 2 * len(NAMES))
    for first in (0, len(NAMES)):
        assert sorted(one.kind for one in planned[first : first + len(NAMES)]) == sorted(NAMES)


@given(st.integers())
def test_what_is_planned_is_within_what_its_kind_allows(seed: int) -> None:
    for one in flat(seed, len(NAMES)):
        shortest, longest = KINDS[one.kind].seconds
        assert shortest <= one.seconds <= longest
        assert one.target in KINDS[one.kind].targets
        assert all(0 <= die < 1 for die in one.dice)


def test_overlapping_faults_come_in_twos_with_numbers_of_their_own() -> None:
    groups = list(islice(schedule(3, EVERYTHING, at_once=2), 12))
    assert [len(group) for group in groups] == [2] * 12
    assert [one.number for group in groups for one in group] == list(range(1, 25))


def test_faults_are_chosen_by_name_or_by_the_beginning_of_it() -> None:
    assert list(selected(["node-kill", "consul"], root=True)) == [
        "node-kill",
        "consul-kill",
        "consul-freeze",
        "consul-empty",
        "consul-restore",
    ]
    assert selected([], root=True) == EVERYTHING


def test_a_fault_can_be_given_its_seconds() -> None:
    kinds = selected(["partition-one:15", "node-kill"], root=True)
    assert kinds == {"partition-one": 15.0, "node-kill": None}
    planned = [group[0] for group in islice(schedule(1, kinds), 10)]
    assert {one.seconds for one in planned if one.kind == "partition-one"} == {15.0}
    assert len({one.seconds for one in planned if one.kind == "node-kill"}) > 1
    with pytest.raises(ValueError, match="number of seconds"):
        selected(["node-kill:soon"], root=True)


def test_a_word_that_chooses_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="FAULTS: 'earthquake'"):
        selected(["earthquake"], root=True)


def test_who_is_not_root_has_no_partitions_and_no_full_disks() -> None:
    possible = selected([], root=False)
    assert "node-kill" in possible
    assert not [name for name in possible if name.startswith("partition") or name == "disk-full"]
    with pytest.raises(ValueError, match="need root"):
        selected(["partition"], root=False)


# --- Partitions ---------------------------------------------------------------------------------


def cut(kind: str, *dice: float) -> set[tuple[str, str]]:
    """The pairs (from, to) between which nothing passes."""
    made = partition(kind, HOSTS, [*dice, 0.0, 0.0])
    pairs = {(other, host) for host, drops in made.drops.items() for other in drops.incoming}
    pairs |= {(host, other) for host, drops in made.drops.items() for other in drops.outgoing}
    return pairs


def both(*pairs: tuple[str, str]) -> set[tuple[str, str]]:
    return set(pairs) | {(b, a) for a, b in pairs}


def test_one_node_from_all() -> None:
    assert partition("partition-one", HOSTS, [0.1, 0, 0]).unplugged == ("n1",)
    rest = both(("n1", "n2"), ("n1", "n3"), ("n1", "c"), ("n1", "s"))
    assert cut("partition-one", 0.4) == rest | both(("n1", "h"))
    assert cut("partition-one", 0.9) == rest


def test_the_primary_from_consul_only_and_from_the_replicas_only() -> None:
    assert cut("partition-consul") == both(("n1", "c"))
    assert cut("partition-replicas") == both(("n1", "n2"), ("n1", "n3"))


@given(st.floats(0, 0.999))
def test_halves_are_cut_in_both_directions_and_never_from_the_clients(die: float) -> None:
    pairs = cut("partition-halves", die)
    assert pairs == {(b, a) for a, b in pairs}
    assert not any("h" in pair for pair in pairs)
    assert any(pair in pairs for pair in (("n1", "n2"), ("n1", "n3")))


def test_every_division_into_halves_occurs() -> None:
    assert len({frozenset(cut("partition-halves", die / 100)) for die in range(100)}) == 6


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_one_direction_only(whom: float, direction: float) -> None:
    pairs = cut("partition-oneway", whom, direction)
    assert pairs
    assert not pairs & {(b, a) for a, b in pairs}
    assert all(pair.index("n1") == (0 if direction >= 0.5 else 1) for pair in pairs)


def test_every_partition_is_known() -> None:
    for kind in PARTITIONS:
        assert partition(kind, HOSTS, [0.6, 0.6, 0.6]).text
    with pytest.raises(ValueError, match="no partition"):
        partition("node-kill", HOSTS, [0.0])


# --- The document -------------------------------------------------------------------------------


def test_the_documented_runs() -> None:
    """They take minutes each: here make says what it would run, and that is what the program takes."""
    lines = the_block(__file__, "test_the_documented_runs").lines
    # As at a prompt: this test may itself be run by make.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    for line in lines:
        command, *words = shlex.split(line, comments=True)
        assert (command, words[0]) == ("make", "faults")
        done = subprocess.run(
            ["make", "--dry-run", *words], cwd=ROOT, env=env, check=True, capture_output=True, text=True
        )
        _, arguments = done.stdout.replace("\\\n", "").split(" -m faults ")
        given = vars(parser().parse_args(shlex.split(arguments)))
        assert selected(given["faults"].replace(",", " ").split(), root=True), line
        for name, _, value in (word.partition("=") for word in words[1:]):
            assert given[name.lower()] == value, line
    assert len(lines) > 3
