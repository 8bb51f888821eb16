"""Two stages at once: what the consumer gets, and how both ends end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager import pipe
from manager.errors import LockLost
from manager.settings import load
from manager.storage import Store, open_store
from manager.waiting import Deadline, poll_until

CHUNK = bytes(1000)


class Producer:
    """Yields chunks until it is closed, or raises `failure` after `count` of them."""

    def __init__(self, count: int = 1 << 30, failure: BaseException | None = None) -> None:
        self.made, self.closed = 0, threading.Event()
        self._count, self._failure = count, failure

    def __iter__(self) -> Iterator[bytes]:
        try:
            while self.made < self._count:
                self.made += 1
                yield CHUNK
            if self._failure is not None:
                raise self._failure
        finally:
            self.closed.set()


def fail_after_one(given: Iterator[bytes]) -> None:
    next(given)
    raise OSError("disk full")


def producers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "producer"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert producers() == []
    begin = time.monotonic()
    yield
    assert producers() == []
    assert time.monotonic() - begin < pipe.PATIENCE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    environ = {"BACKUP_DRIVER": "local", "STORAGE_DIR": str(tmp_path)}
    return open_store(load({**environ, "NODE_NAME": "node-1", "NODE_ADDRESS": "127.0.0.1"}))


def test_all_chunks_arrive_in_their_order() -> None:
    chunks = [b"a", b"", b"bc", *(bytes([number]) * 300 for number in range(200)), b"", b"z"]
    with pipe.ahead(chunks, room=1000) as given:
        assert list(given) == chunks
        assert list(given) == []
    with pipe.ahead(iter(()), room=1000) as given:
        assert list(given) == []


def test_it_is_ahead_by_its_room_and_no_further() -> None:
    producer = Producer()
    with pipe.ahead(producer, room=5000) as given:
        for taken in range(3):
            waiting = taken + 5 + 1  # and the one that waits to be added
            assert poll_until(lambda: producer.made >= waiting, Deadline(5.0), interval=0.01)  # noqa: B023
            time.sleep(0.05)
            assert producer.made == waiting
            next(given)


@pytest.mark.parametrize("failure", [LockLost("gone"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("count", [0, 3, 100])
def test_what_the_producer_raises_reaches_the_consumer(failure: BaseException, count: int) -> None:
    taken = []
    with pipe.ahead(Producer(count, failure), room=5000) as given, pytest.raises(type(failure)) as caught:
        taken.extend(given)
    assert caught.value is failure
    assert len(taken) <= count


def test_an_object_is_not_completed_after_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LockLost), pipe.ahead(Producer(100, LockLost("gone"))) as given:
        store.put_stream("object", given)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_consumer_that_fails_ends_the_producer() -> None:
    producer = Producer()
    stream = iter(producer)  # somebody else has it too, so that it is closed only by who is told to
    with pytest.raises(OSError, match="disk full"), pipe.ahead(stream, room=5000) as given:
        fail_after_one(given)
    assert producer.closed.is_set()
    assert producer.made <= 8


def test_a_stream_that_was_given_up_has_no_end() -> None:
    with pipe.ahead(Producer(100), room=5000) as given:
        next(given)
    with pytest.raises(ValueError, match="given up"):
        list(given)


def test_stages_end_together() -> None:
    first = Producer(100, LockLost("gone"))
    with pytest.raises(LockLost, match="gone"), pipe.ahead(first, room=5000) as one, pipe.ahead(one) as two:
        list(two)
    endless = Producer()
    with (
        pytest.raises(OSError, match="disk full"),
        pipe.ahead(endless, room=5000) as one,
        pipe.ahead(one, room=5000) as two,
    ):
        fail_after_one(two)
    assert endless.closed.is_set()


def test_a_producer_that_is_silent_keeps_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "PATIENCE", 0.2)
    answers, given_up = threading.Event(), []

    def silent() -> Iterator[bytes]:
        yield CHUNK
        answers.wait()
        try:
            yield CHUNK
        finally:
            given_up.append(True)

    with pytest.raises(OSError, match="disk full"), pipe.ahead(silent()) as given:
        fail_after_one(given)
    (thread,) = producers()
    answers.set()
    thread.join(5.0)
    assert given_up == [True]


# --- What is written ------------------------------------------------------------------------------


def test_what_is_written_comes_out_in_its_order() -> None:
    def run(write: pipe.Write) -> None:
        for number in range(100):
            write(bytes([number]) * 100)

    with pipe.written(run, room=1000) as given:
        assert list(given) == [bytes([number]) * 100 for number in range(100)]


def test_what_a_writer_raises_comes_behind_what_it_wrote() -> None:
    def run(write: pipe.Write) -> None:
        write(b"x")
        raise LockLost("gone")

    with pipe.written(run) as given:
        assert next(given) == b"x"
        with pytest.raises(LockLost, match="gone"):
            next(given)


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_writer_that_nobody_reads_is_told_so(swallowed: bool) -> None:
    """Also one that makes something else of the exception, as a library does, and writes once more."""
    told: list[BaseException] = []

    def run(write: pipe.Write) -> None:
        try:
            while True:
                write(CHUNK)
        except pipe.GivenUp as given_up:
            told.append(given_up)
            if swallowed:
                write(b"the last")
            raise

    with pipe.written(run, room=5000) as given:
        next(given)
    assert len(told) == 1
