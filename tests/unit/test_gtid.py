"""Sets of GTIDs: parsing, printing, and the algebra against plain Python sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.gtid import LAST_NUMBER, GtidSet

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "4e11fa47-71ca-11e1-9e33-c80aa9429562"

Transaction = tuple[str, str, int]
transactions = st.frozensets(
    st.tuples(st.sampled_from([A, B]), st.sampled_from(["", "blue", "_1"]), st.integers(1, 12)), max_size=25
)


def of(items: frozenset[Transaction]) -> GtidSet:
    """The set of single transactions, in the longest form of the grammar."""
    return GtidSet.parse(",".join(":".join(filter(None, (uuid, tag, str(n)))) for uuid, tag, n in items))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" \n", ""),
        (f"{A}:1", f"{A}:1"),
        (f"{A.upper()}:1-5", f"{A}:1-5"),
        (f"{A}:1-3:4-5:7", f"{A}:1-5:7"),
        (f"{A}:7:1-3:2-4", f"{A}:1-4:7"),
        (f"{B}:1,\n{A}:2", f"{A}:2,{B}:1"),
        (f"{A}:1,,{A}:2,", f"{A}:1-2"),
        (f"{A}:1-6:blue:1", f"{A}:1-6:blue:1"),
        (f"{A}:Blue:1:RED:3,{A}:2", f"{A}:2:blue:1:red:3"),
        (f" {A} : 1 - 3 : 9 ", f"{A}:1-3:9"),
        (f"{A}:{LAST_NUMBER}", f"{A}:{LAST_NUMBER}"),
    ],
)
def test_parse_and_print(text: str, canonical: str) -> None:
    assert str(GtidSet.parse(text)) == canonical
    assert GtidSet.parse(text) == GtidSet.parse(canonical)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        A,
        f"{A}:",
        f"{A}:0",
        f"{A}:5-3",
        f"{A}:1-",
        f"{A}:-1",
        f"{A}:{LAST_NUMBER + 1}",
        f"{A}:blue",
        f"{A}:1:blue",
        f"{A}:9blue:1",
        f"{A}:{'t' * 33}:1",
        f"{A[:-1]}:1",
        f"{A}:1;{B}:1",
        f"{A}:١",
    ],
)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="uuid|interval|tag"):
        GtidSet.parse(text)


def test_an_empty_set_is_false_and_a_subset_of_all() -> None:
    assert not GtidSet()
    assert GtidSet.parse("") == GtidSet()
    assert GtidSet() <= GtidSet.parse(f"{A}:1")
    assert not GtidSet.parse(f"{A}:1") <= GtidSet()


def test_large_intervals_cost_nothing() -> None:
    huge = GtidSet.parse(f"{A}:1-{LAST_NUMBER}")
    assert huge.count == LAST_NUMBER
    assert str(huge - GtidSet.parse(f"{A}:5:9-10")) == f"{A}:1-4:6-8:11-{LAST_NUMBER}"


@given(transactions)
def test_count_uuids_and_round_trip(items: frozenset[Transaction]) -> None:
    gtids = of(items)
    assert gtids.count == len(items)
    assert gtids.uuids == {uuid for uuid, _, _ in items}
    assert bool(gtids) is bool(items)
    assert GtidSet.parse(str(gtids)) == gtids
    assert hash(GtidSet.parse(str(gtids))) == hash(gtids)


@given(transactions, transactions)
def test_the_algebra_is_that_of_sets(left: frozenset[Transaction], right: frozenset[Transaction]) -> None:
    assert of(left) | of(right) == of(left | right)
    assert of(left) - of(right) == of(left - right)
    assert of(left) & of(right) == of(left & right)
    assert (of(left) <= of(right)) is (left <= right)
    assert (of(left) == of(right)) is (left == right)
