"""Our GTID sets against the server's own functions, tags included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manager.gtid import GtidSet
from manager.mysql.connection import Connection
from sandbox.packages import Packages
from tests.integration.mysql_nodes import nodes

ADDRESS = "127.0.41.95"
UUIDS = tuple(f"{n}e11fa47-71ca-11e1-9e33-c80aa9429562" for n in "3af")
TAGS = ("", "blue", "_x1")

intervals = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(
    lambda pair: f"{pair[0]}-{pair[0] + pair[1]}" if pair[1] else str(pair[0])
)
tagged = st.tuples(st.sampled_from(TAGS[1:]), st.lists(intervals, min_size=1, max_size=3)).map(
    lambda pair: ":".join((pair[0], *pair[1]))
)
sources = st.tuples(
    st.sampled_from(UUIDS), st.lists(intervals, min_size=1, max_size=4), st.lists(tagged, max_size=2)
).map(lambda parts: ":".join((parts[0], *parts[1], *parts[2])))
texts = st.lists(sources, max_size=4).map(",".join)


@pytest.fixture(scope="module")
def conn(packages: Packages, module_directory: Path) -> Iterator[Connection]:
    with nodes(packages, module_directory, ADDRESS) as (node,):
        node.start()
        with node.local() as connection:
            yield connection


def of_server(conn: Connection, expression: str, *values: str) -> str:
    return str(conn.value(f"SELECT {expression}", values)).replace("\n", "").lower()


# The server is the same for all examples, and keeps nothing of them.
relaxed = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(left=texts, right=texts)
def test_difference_and_subset_are_the_servers(conn: Connection, left: str, right: str) -> None:
    ours, others = GtidSet.parse(left), GtidSet.parse(right)
    assert str(ours - others) == of_server(conn, "GTID_SUBTRACT(%s, %s)", left, right)
    assert (ours <= others) is (of_server(conn, "GTID_SUBSET(%s, %s)", left, right) == "1")


@relaxed
@given(text=texts)
def test_our_text_is_the_servers(conn: Connection, text: str) -> None:
    ours = str(GtidSet.parse(text))
    assert ours == of_server(conn, "GTID_SUBTRACT(%s, '')", text)
    assert ours == of_server(conn, "GTID_SUBTRACT(%s, '')", ours)


@pytest.mark.parametrize("bad", [f"{UUIDS[0]}:0", f"{UUIDS[0]}:9blue:1", "x:1", f"{UUIDS[0]}:1-"])
def test_what_the_server_refuses_we_refuse(conn: Connection, bad: str) -> None:
    answer: Callable[[], str] = lambda: of_server(conn, "GTID_SUBTRACT(%s, '')", bad)  # noqa: E731
    with pytest.raises(Exception, match="GTID"):
        answer()
    with pytest.raises(ValueError, match="uuid|interval|tag"):
        GtidSet.parse(bad)
