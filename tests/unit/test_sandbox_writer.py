"""How the writer judges what it was told."""

from __future__ import annotations

from sandbox.writer import History


def history() -> History:
    return History(acknowledged={1: 10.0, 2: 10.1, 5: 13.0, 6: 13.1}, failed={4}, unknown={3})


def test_the_gap_is_the_longest_silence_from_the_last_answer_before_the_fault_on() -> None:
    assert history().gap(10.5) == 13.0 - 10.1


def test_a_later_silence_counts_too() -> None:
    told = history()
    told.acknowledged[7] = 20.0
    assert told.gap(10.5) == 20.0 - 13.1


def test_there_is_no_gap_before_the_first_answer_after_the_fault() -> None:
    assert history().gap(13.5) is None
    assert history().gap(9.0) is None


def test_an_acknowledged_row_that_is_not_there_is_missing() -> None:
    assert history().missing({1, 2, 5}) == {6}


def test_a_row_without_an_answer_may_be_there_or_not() -> None:
    assert history().unexpected({1, 2, 3, 5, 6}) == set()
    assert history().missing({1, 2, 5, 6}) == set()


def test_a_row_that_certainly_failed_or_was_never_written_is_unexpected() -> None:
    assert history().unexpected({1, 4, 99}) == {4, 99}
