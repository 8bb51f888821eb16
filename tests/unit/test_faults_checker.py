"""The checker finds what was planted, and nothing in a history that is in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import checker
from faults.checker import Held
from faults.history import History, Operation, RecordWatch, Row, Sighting, sighting
from sandbox.processes import wait_for
from sandbox.writer import Outcome

A, B, C = "server-a", "server-b", "server-c"


def op(
    number: int,
    outcome: Outcome = "acknowledged",
    *,
    server: str = A,
    at: float = 0.0,
    took: float = 0.1,
    writer: int = 1,
    kind: Literal["insert", "append"] = "insert",
) -> Operation:
    begin = at or float(number)
    return Operation(writer, number, kind, 0, begin, begin + took, outcome, server)


def held(*numbers: int, lists: dict[int, list[Row]] | None = None) -> Held:
    return Held(node="node-1", rows=frozenset((1, number) for number in numbers), lists=lists or {})


HISTORY = [op(1), op(2), op(3, "unknown"), op(4, "failed"), op(5)]


def test_a_history_in_order_has_nothing_to_find() -> None:
    for there in (held(1, 2, 5), held(1, 2, 3, 5)):
        assert checker.missing(HISTORY, there) == []
        assert checker.unexpected(HISTORY, there) == []


def test_an_acknowledged_write_that_is_not_there_is_missing() -> None:
    assert [one.row for one in checker.missing(HISTORY, held(1, 5))] == [(1, 2)]


def test_a_write_that_failed_or_that_nobody_made_is_unexpected() -> None:
    assert checker.unexpected(HISTORY, held(1, 2, 4, 5, 9)) == [(1, 4), (1, 9)]


def test_a_write_that_is_still_running_may_be_there() -> None:
    assert checker.unexpected(HISTORY, held(1, 2, 5, 6), running=[(1, 6)]) == []


def test_appended_elements_count_as_writes() -> None:
    told = [op(1, kind="append"), op(2, kind="append"), op(3, "failed", kind="append")]
    assert checker.missing(told, held(lists={0: [(1, 1)]})) == [told[1]]
    assert checker.unexpected(told, held(lists={0: [(1, 1), (1, 2), (1, 3)]})) == [(1, 3)]


def test_a_list_keeps_the_order_of_each_writer_and_holds_nothing_twice() -> None:
    told = [op(1, kind="append"), op(2, kind="append"), op(1, kind="append", writer=2), op(3, "unknown")]
    good: dict[int, list[Row]] = {0: [(1, 1), (2, 1), (1, 2)]}
    assert checker.disorder(told, held(lists=good)) == []
    assert "comes after 2" in checker.disorder(told, held(lists={0: [(1, 2), (2, 1), (1, 1)]}))[0]
    assert "2 times" in checker.disorder(told, held(lists={0: [(1, 1), (2, 1), (1, 1)]}))[0]
    late_unknown: dict[int, list[Row]] = {0: [(1, 3), (1, 1), (2, 1), (1, 2)]}
    assert checker.disorder(told, held(lists=late_unknown)) == []


# --- Two servers at a time ----------------------------------------------------------------------


def test_one_server_after_the_other_is_in_order() -> None:
    told = [op(1, server=A), op(2, server=A), op(3, server=B), op(4, server=A)]
    assert checker.overlaps(told, {1: A, 2: B, 3: A}) == []


def test_a_server_that_acknowledges_after_its_successor_is_found() -> None:
    told = [op(1, server=A), op(2, server=B), op(3, server=A), op(4, server=B)]
    found = checker.overlaps(told, {1: A, 2: B})
    assert [(one.late.number, one.early.number) for one in found] == [(3, 2)]
    assert found[0].seconds == pytest.approx(1.0)


def test_acknowledgements_that_were_on_their_way_at_the_same_time_prove_nothing() -> None:
    told = [op(1, server=A, at=1.0, took=5.0), op(2, server=B, at=2.0, took=0.1)]
    assert checker.overlaps(told, {1: A, 2: B}) == []


def test_an_epoch_that_was_not_seen_may_have_been_anybodys() -> None:
    told = [op(1, server=A), op(2, server=B), op(3, server=A), op(4, server=C)]
    assert checker.overlaps(told, {1: A, 2: B, 4: C}) == []


def test_a_server_that_was_never_primary_is_found() -> None:
    assert [one.late.number for one in checker.overlaps([op(1), op(2, server=C)], {1: A, 2: B})] == [2]


@given(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=12), st.data())
def test_any_history_that_follows_the_epochs_is_in_order(owners: list[str], data: st.DataObject) -> None:
    primaries = dict(enumerate(owners, 1))
    told = []
    for epoch, owner in primaries.items():
        for number in range(data.draw(st.integers(0, 3))):
            at = epoch * 10.0 + number
            told.append(op(len(told) + 1, server=owner, at=at, took=data.draw(st.floats(0.01, 5.0))))
    assert checker.overlaps(told, primaries) == []


def seen(epoch: int, primary: str) -> Sighting:
    return Sighting(0.0, epoch, 1, primary, "node-1", (), "semisync", "")


def test_an_epoch_with_two_primaries_is_found() -> None:
    records = [seen(1, A), seen(2, B), seen(1, A), seen(2, C)]
    primaries, twice = checker.owners(records)
    assert primaries == {1: A, 2: B}
    assert twice == [f"epoch 2 names both {B} and {C}"]


def version(number: int, epoch: int, primary: str, *members: str, durability: str = "semisync") -> Sighting:
    return Sighting(0.0, epoch, number, primary, "a node", members, durability, "a reason")


def test_a_promotion_of_a_member_is_safe() -> None:
    records = [version(4, 1, A, B, C), version(5, 2, C), version(6, 2, C, A), version(7, 3, A)]
    assert checker.promotions(records) == (2, [])


def test_a_promotion_that_should_have_been_refused_is_found() -> None:
    nobody = [version(4, 1, A), version(5, 2, B)]
    assert checker.promotions(nobody) == (1, ["epoch 2: a node (a reason); members: nobody"])
    stranger = [version(4, 1, A, C), version(5, 2, B)]
    assert checker.promotions(stranger) == (1, [f"epoch 2: a node (a reason); members: {C}"])


def test_a_promotion_whose_record_before_was_not_seen_is_not_judged() -> None:
    assert checker.promotions([version(3, 1, A), version(5, 2, B)]) == (0, [])
    assert checker.promotions([version(4, 1, A, durability="async"), version(5, 2, B)]) == (0, [])


def test_nodes_that_differ_are_named() -> None:
    assert checker.differences({"node-1": "x", "node-2": "x"}, "checksums") == []
    assert checker.differences({"node-1": "x", "node-2": "y"}, "checksums") == [
        "checksums differ: node-1: x; node-2: y"
    ]


# --- The history --------------------------------------------------------------------------------


def test_the_gap_touches_the_time_in_question() -> None:
    history = History(operations=[op(1), op(2), op(5), op(6)])
    assert history.gap(2.5, 6.5) == pytest.approx(3.0)
    assert history.gap(5.5, 6.5) == pytest.approx(1.0)
    assert history.gap(6.5, 9.0) == pytest.approx(9.0 - 6.1)
    assert history.last_acknowledged() == pytest.approx(6.1)


def test_outcomes_are_counted_and_kept(tmp_path: Path) -> None:
    history = History(operations=list(HISTORY), records=[seen(1, A)])
    assert history.counts() == {"acknowledged": 3, "failed": 1, "unknown": 1}
    history.save(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "operations.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == [one.outcome for one in HISTORY]
    assert json.loads((tmp_path / "records.jsonl").read_text())["primary"] == A


def test_the_watch_keeps_each_record_once() -> None:
    fields = {"epoch": 1, "version": 3, "primary": A, "primary_name": "node-1", "members": [B]}
    text = json.dumps({**fields, "durability": "semisync", "reason": "founded"}).encode()
    answers = iter([None, text, text, b"", text.replace(b'"version": 3', b'"version": 4')])
    records: list[Sighting] = []
    watch = RecordWatch(lambda: next(answers, None), lambda: 1.0, records)
    watch.start()
    try:
        assert wait_for(lambda: len(records) == 2, 30.0)
    finally:
        watch.stop()
    assert [one.version for one in records] == [3, 4]
    assert sighting(text, 5.0).members == (B,)
