"""mysqlrpladmin as a program: what is made of its end, and that it has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager import rpladmin
from manager.settings import load
from sandbox.processes import states, wait_for

SETTINGS = load(
    {
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": "127.0.42.11",
        "MYSQL_REPL_USER": "repl",
        "MYSQL_REPL_PASSWORD": "hunter2",
        "FAILOVER_ENGINE": "mysqlrpladmin",
    }
)
SERVERS = ["127.0.42.12:3306", "127.0.42.13:3306"]


def run(script: str) -> str:
    """Let a shell stand for the tool."""
    return rpladmin.call(["sh", "-c", script, "mysqlrpladmin"], SETTINGS, SERVERS)


def test_what_it_says_has_no_password_in_it() -> None:
    said = run('echo "# Performing failover."; echo "ERROR: $(tr "\\n" " ")"; exit 1')
    assert said == (
        "ERROR: --slaves=repl:***@127.0.42.12:3306,repl:***@127.0.42.13:3306 --rpl-user=repl:***"
        " --timeout=3 --no-health failover"
    )
    assert run("echo IndexError: hunter2 >&2; exit 1") == "IndexError: ***"
    assert run("echo fine") == ""


def test_killed_or_not_there() -> None:
    assert run("kill -9 $$") == "sh was killed by signal 9"
    assert "/no/python" in rpladmin.call(["/no/python", "tool"], SETTINGS, SERVERS)


def test_it_is_dead_after_its_time_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpladmin, "TOOL_TIME", 2.0)
    ticks: list[int] = []
    script = f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait"
    said = rpladmin.call(["sh", "-c", script], SETTINGS, SERVERS, lambda: ticks.append(1))
    assert said == "it did not end within 2 s"
    assert ticks
    pid = int((tmp_path / "pid").read_text())
    assert wait_for(lambda: states(pid) <= {"Z"}, 10.0)
