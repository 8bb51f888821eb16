"""What a health run says of its node once it has decided."""

from __future__ import annotations

import pytest

from manager.decide.health import Action, Decision
from manager.hooks.verdict import Verdict, judge
from manager.nodefile import NodeFile
from tests.unit.worlds import closed, replica, view


def verdict(action: Action, **changes: object) -> Verdict:
    """The verdict on node-2 after a run that ended with this action."""
    return judge(Decision(action, "the reason"), view("node-2", **{"server": replica(), **changes}))


def test_who_serves_or_replicates_is_healthy() -> None:
    assert verdict(Action.SERVE) == Verdict("primary", True, "the reason")
    assert verdict(Action.REPLICATE) == Verdict("replica", True, "the reason")


@pytest.mark.parametrize("action", [a for a in Action if a not in (Action.SERVE, Action.REPLICATE)])
def test_a_replication_status_alone_makes_nobody_healthy(action: Action) -> None:
    assert verdict(action) == Verdict("replica", False, "the reason")
    assert verdict(action, server=closed()) == Verdict("unassigned", False, "the reason")
    fresh = NodeFile(origin="initialised")
    assert verdict(action, file=fresh) == Verdict("unassigned", False, "the reason")
