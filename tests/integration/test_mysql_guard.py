"""The guard inside a server."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import GuardBusy, GuardLost, ServerUnreachable
from manager.mysql import operations
from manager.mysql.connection import Connection, local_password
from manager.mysql.guard import check_held, guard, held, holder, kill_stale_guard
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.mysql_nodes import LONG, Node, nodes

pytestmark = pytest.mark.feature("one hook at a time in each server")

ADDRESS = "127.0.41.90"


@pytest.fixture(scope="module")
def node(each_mysql: Packages, module_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, module_directory, ADDRESS) as (node,):
        node.start()
        node.found()
        yield node


@pytest.fixture
def two(node: Node) -> Iterator[tuple[Connection, Connection]]:
    with node.local() as one, node.remote() as other:
        yield one, other


def test_one_holder_at_a_time(two: tuple[Connection, Connection]) -> None:
    one, other = two
    assert holder(other) is None
    with guard(one):
        assert held(one)
        assert not held(other)
        found = holder(other)
        assert found is not None
        assert found.connection_id == one.connection_id
        assert found.age_s < LONG
        with pytest.raises(GuardBusy, match=f"held by connection {one.connection_id}") as busy, guard(other):
            pass
        assert busy.value.holder == one.connection_id
        assert busy.value.age_s is not None
    with guard(other, wait=1.0):
        assert held(other)
    assert holder(one) is None


def test_it_ends_with_its_block_also_after_an_error(two: tuple[Connection, Connection]) -> None:
    one, other = two
    with contextlib.suppress(RuntimeError), guard(one):
        raise RuntimeError
    assert holder(other) is None


def test_a_stale_holder_is_killed(two: tuple[Connection, Connection], node: Node) -> None:
    one, other = two
    with guard(one):
        assert kill_stale_guard(other, older_than_s=LONG) is None
        assert kill_stale_guard(one, older_than_s=0) is None
        assert wait_for(lambda: kill_stale_guard(other, older_than_s=0.3) == one.connection_id, LONG)
        assert wait_for(lambda: holder(other) is None, LONG)
        assert not held(one)
        with pytest.raises(GuardLost):
            check_held(one)
        with pytest.raises(ServerUnreachable):
            operations.stop_io(one)
    assert kill_stale_guard(other, older_than_s=0) is None


def test_it_works_on_a_closed_server(two: tuple[Connection, Connection]) -> None:
    one, other = two
    operations.close_server(one)
    with guard(other):
        assert held(other)


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_a_hook_that_is_stopped_or_killed(node: Node, fate: signal.Signals) -> None:
    """The guard of a killed process is free at once; that of a stopped one once it has been killed here."""
    program = (
        "import sys, time, pymysql\n"
        "login = {'user': 'autopilot', 'password': sys.argv[2]}\n"
        "conn = pymysql.connect(unix_socket=sys.argv[1], ssl_disabled=True, **login)\n"
        "conn.cursor().execute(\"SELECT GET_LOCK('autopilot', 5)\")\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    password = local_password(node.settings) or ""
    command = [sys.executable, "-c", program, str(node.settings.socket), password]
    with node.local() as conn, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            process.send_signal(fate)
            if fate == signal.SIGSTOP:
                # It took the lock and was stopped before it could note the time.
                assert wait_for(lambda: kill_stale_guard(conn, older_than_s=0.5) is not None, LONG)
            with guard(conn, wait=5.0):
                assert held(conn)
        finally:
            process.kill()
