"""The protocol of docs/failover.md, explored exhaustively within bounds, and mutants that must be caught.

MODEL_FAULTS (default 1) raises how many faults of any kind one run may hold; MODEL_STATES bounds the states then.
"""

from __future__ import annotations

import os

import pytest

from tests.model.explore import Found, explore, members, promoted
from tests.model.world import Left, Rules, World

FAULTS = int(os.environ.get("MODEL_FAULTS", "1"))
STATES = int(os.environ.get("MODEL_STATES", "4000000"))
BOTH = 0b110
SOUND = Rules()

# Minutes of one core for the default bound, which may have to be shared; without an end for a longer one.
pytestmark = pytest.mark.timeout(1800 if FAULTS == 1 else 0)


def any_fault(**changes: int) -> Left:
    """FAULTS faults, of any kind but partitions."""
    n = FAULTS
    return Left(faults=n, kills=n, crashes=n, guards=n, lost=n, sessions=n)._replace(**changes)


def check(found: Found) -> None:
    """All states were seen, or as many as the longer bound allows, and nothing is broken."""
    assert not found.broken, str(found)
    assert found.complete or (FAULTS > 1 and found.states >= STATES), str(found)


class TestPromises:
    """Nothing acknowledged is lost, only A acknowledges, never two: in every state of these runs."""

    def test_one_fault_between_any_two_steps(self) -> None:
        """Deciding on what was seen before the guard was taken, as the primary's health does, is safe."""
        rules = SOUND._replace(looks_before_guard=True)
        check(explore(members(BOTH, any_fault()), rules, most=STATES))

    def test_one_fault_after_a_promotion(self) -> None:
        check(explore(promoted(any_fault()), SOUND, most=STATES))

    @pytest.mark.long
    def test_a_failover_whose_answers_are_lost(self) -> None:
        left = Left(faults=2, sessions=1, lost=1)
        check(explore(members(BOTH, left), SOUND, most=STATES))


MUTANTS: dict[str, tuple[World, Rules, str]] = {
    "no marker at an admission with A empty": (
        members(0, Left()),
        SOUND._replace(marker_at_first_admission=False),
        "I1",
    ),
    "a promotion that is written whatever the index": (
        members(BOTH, Left(faults=1, sessions=1)),
        SOUND._replace(promotion_compares=False),
        "I3",
    ),
    "no touch before a thaw": (
        members(BOTH, Left(faults=2, sessions=1, lost=1)),
        SOUND._replace(touch_before_thaw=False),
        "I3",
    ),
    "no cut-off of a removed member": (
        members(BOTH, Left()),
        SOUND._replace(removal_cuts_off=False),
        "I2",
    ),
    "restarted members count": (
        members(BOTH, Left(faults=2, sessions=1, kills=1)),
        SOUND._replace(restarted_members_count=True),
        "lost",
    ),
    "semi-sync switched off before the record is confirmed": (
        members(BOTH, Left()),
        SOUND._replace(off_before_record=True),
        "I1",
    ),
    "a frozen member is released without its guard": (
        members(BOTH, Left(faults=2, sessions=1, crashes=1)),
        SOUND._replace(thaw_under_guard=False),
        "I3",
    ),
    # Holes that the code once had:
    "an admission with A empty while another one's record is on its way": (
        members(0, Left(faults=1, lost=1)),
        SOUND._replace(touch_before_first_admission=False),
        "I2",
    ),
    "locked accounts are taken for cut off": (
        members(BOTH, Left(faults=1, crashes=1)),
        SOUND._replace(cuts_off_the_locked=False),
        "I2",
    ),
    "spared for a variable that was seen OFF before the guard was taken": (
        promoted(Left(faults=1, crashes=1)),
        SOUND._replace(first_admission_spares_nobody=False, looks_before_guard=True),
        "I2",
    ),
    "spared for a variable that is seen OFF under the primary's guard": (
        promoted(Left(faults=1, guards=1)),
        SOUND._replace(first_admission_spares_nobody=False),
        "I2",
    ),
    "a restarted primary opens while an earlier write is on its way": (
        members(0, Left(faults=3, lost=2, kills=1)),
        SOUND._replace(touch_before_opening=False),
        "I1",
    ),
    "an opening that was cut off goes on as if there had been no promotion": (
        members(BOTH, Left(faults=2, sessions=1, crashes=1)),
        SOUND._replace(promoted_by_epoch=False),
        "1 was promoted",
    ),
    "a replica is compared only before its receiver is stopped": (
        members(0b100, Left(faults=1, sessions=1)),
        SOUND._replace(compares_again=False),
        "diverged",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    world, rules, promise = MUTANTS[name]
    found = explore(world, rules)
    assert found.broken.startswith(promise), str(found)
    assert found.trace, "the way there is shown"
