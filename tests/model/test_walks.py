"""Long random walks through the same model, with more of everything than an exhaustive run can bear."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model import canonical, mysql
from tests.model.explore import members, promoted, successors
from tests.model.promises import broken
from tests.model.world import Left, Rules

FAULTS = int(os.environ.get("MODEL_FAULTS", "1"))
PLENTY = Left(
    writes=4, promotions=1, faults=6, kills=2, crashes=3, guards=3, lost=3, sessions=3, partitions=2
)
RULES = Rules(looks_before_guard=True)


class Walk(RuleBasedStateMachine):
    """Three hooks at once; what happens next is drawn from all that may."""

    @initialize(start=st.sampled_from(["A = {1, 2}", "A = {}", "promoted"]))
    def begin(self, start: str) -> None:
        worlds = {"A = {1, 2}": members(0b110, PLENTY), "A = {}": members(0, PLENTY)}
        self.world = worlds.get(start) or promoted(PLENTY)

    @rule(number=st.integers(0, 2**16))
    def happens(self, number: int) -> None:
        following = list(successors(self.world, RULES, processes=3))
        if following:
            _, after = following[number % len(following)]
            self.world = canonical.cleared(mysql.settle(after))

    @invariant()
    def keeps_its_promises(self) -> None:
        if hasattr(self, "world"):
            assert not broken(self.world)


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=600 * FAULTS,
    stateful_step_count=60,
    deadline=None,
    derandomize=FAULTS == 1,
    suppress_health_check=list(HealthCheck),
)
