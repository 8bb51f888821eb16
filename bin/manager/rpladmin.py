"""FAILOVER_ENGINE=mysqlrpladmin: MySQL Utilities' tool makes the other replicas follow the chosen one.

It runs between the promotion transaction and the opening, with every guard held: the chosen node is complete by
then, so the tool finds nothing to fetch. What it says, and its exit status, prove nothing (measured): every
server is looked at afterwards, and what it has not done, or done wrong, the native steps do. So do they where there
is no tool, which pre_start has refused.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manager.discovery.record import Record
from manager.errors import ConfigError, MySQLError, SnapshotError
from manager.frozen import Frozen
from manager.mysql import operations
from manager.mysql.guard import check_held
from manager.mysql.initialise import complaint
from manager.mysql.state import ReplicationState, read_state
from manager.settings import Settings
from manager.snapshot.programs import LONGEST_LINE, Program, find, running
from manager.view import in_parallel
from manager.waiting import Deadline, poll_until

LOG = logging.getLogger(__name__)

NAME = "mysqlrpladmin"
PYTHON = "python2.7"
# What starts a program of Python 2 with more arguments, from standard input: `ps` would show a password among them.
_START = (
    "import os, runpy, sys; sys.argv[:1] = []; sys.argv += sys.stdin.read().splitlines();"
    " sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0])); runpy.run_path(sys.argv[0], run_name='__main__')"
)
TOOL_TIME = 10.0
"""Seconds for the whole of it; three nodes take it 0.3 to 3 s (measured)."""
WAIT_TIME = 3
"""Seconds for each of its own waits for an applier."""
BEAT = 1.0
LOOK_TIME = 1.0
SETTLE_TIME = 1.0


@dataclass(frozen=True, kw_only=True)
class Done:
    """`right` names those that were seen to follow the new primary; `said` is how it went, in a few words."""

    right: frozenset[str] = frozenset()
    said: str = ""


NOTHING = Done()


def words(settings: Settings) -> tuple[str, ...]:
    """Return what starts the tool, which reads further arguments from standard input, one a line.

    ConfigError if it is not there, or Python 2.7 is not.
    """
    tool = find(settings, NAME)
    if tool is None:
        raise ConfigError(f"FAILOVER_ENGINE: there is no {NAME} in PATH (MySQL Utilities 1.4.3 has it)")
    python = shutil.which(PYTHON)
    if python is None:
        raise ConfigError(f"FAILOVER_ENGINE: {NAME} needs Python 2.7, and there is no {PYTHON} in PATH")
    return python, "-u", "-c", _START, tool


def usable(settings: Settings, record: Record) -> tuple[str, ...]:
    """Return what starts the tool; ConfigError as `words`, or if the cluster is not async."""
    if record.durability != "async":
        raise ConfigError(f"FAILOVER_ENGINE: {NAME} is for async, and the cluster is {record.durability}")
    return words(settings)


def repoint(
    settings: Settings,
    record: Record,
    chosen: Frozen,
    others: Sequence[Frozen],
    tick: Callable[[], None],
) -> Done:
    """Let the tool re-point `others` to the chosen node, and look at each of them; `tick` is called each second.

    Nothing if it is not the engine, or nobody is to be re-pointed. GuardLost if somebody else has taken the chosen
    node meanwhile, MySQLError if that does not answer.
    """
    if settings.failover_engine != NAME or not others:
        return NOTHING
    try:
        tool = usable(settings, record)
    except ConfigError as error:
        LOG.error("%s; the native engine goes on without it", error)
        return Done(said=f"{NAME} was not used")
    assert settings.mysql_repl_user is not None
    user = settings.mysql_repl_user
    tick()
    ready = [item for item in in_parallel(lambda item: _ready(item, user), (chosen, *others)) if item]
    if not ready or ready[0] is not chosen:
        return Done(said=f"{NAME} was not used: {chosen.peer.name} is not ready for it")
    fault = call(tool, settings, [f"{item.peer.address}:{item.peer.port}" for item in ready], tick)
    check_held(chosen.conn)
    _close(chosen)
    seen = in_parallel(lambda item: _wrong(item, chosen), others)
    right = set()
    for item, wrong in zip(others, seen, strict=True):
        if wrong:
            LOG.warning("%s has not re-pointed %s: %s", NAME, item.peer.name, wrong)
        else:
            LOG.info("%s follows %s", item.peer.name, chosen.peer.name)
            right.add(item.peer.name)
    said = f"{NAME} re-pointed {len(right)} of {len(others)}"
    return Done(right=frozenset(right), said=f"{said} ({fault})" if fault else said)


def _ready(item: Frozen, user: str) -> Frozen | None:
    """Prepare a server for the tool, or return None if that cannot be done.

    The tool waits for all that is named as received, and finds a server fit whose own record of its source names
    an account that is there.
    """
    try:
        with item.conn.timeout(LOOK_TIME):
            operations.renew_source(item.conn, user)
    except MySQLError as error:
        LOG.warning("%s is not handed to %s: %s", item.peer.name, NAME, error)
        return None
    return item


def call(
    tool: Sequence[str], settings: Settings, servers: Sequence[str], tick: Callable[[], None] = lambda: None
) -> str:
    """Run `failover` on these servers; return why it failed, or nothing if it says that all went well.

    Each is `address:port`. The first one that it finds fit becomes the source of the others. No candidates are
    named: their rights would be checked, and more would be needed than it makes use of (measured).
    """
    assert settings.mysql_repl_user is not None
    assert settings.mysql_repl_password is not None
    password = settings.mysql_repl_password.value
    login = f"{settings.mysql_repl_user}:{password}"
    arguments = [
        "--slaves=" + ",".join(f"{login}@{server}" for server in servers),
        f"--rpl-user={login}",
        f"--timeout={WAIT_TIME}",
        "--no-health",
        "failover",
    ]
    fault = _run(tool, arguments, tick)
    return fault.replace(password, "***")


def _run(command: Sequence[str], arguments: Sequence[str], tick: Callable[[], None]) -> str:
    """Return what the program complains about, or nothing if its status is 0; it is dead after TOOL_TIME."""
    deadline, beat, said = Deadline(TOOL_TIME), Deadline(BEAT), b""
    program: Program | None = None
    try:
        with running(command, stdin=True, stdout=True) as program:
            stdin = program.process.stdin
            assert stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its status says how
                stdin.write("\n".join(arguments).encode())
                stdin.close()
            for chunk in program.output():
                said += chunk
                if beat.over:
                    tick()
                    beat = Deadline(BEAT)
                if deadline.over:
                    return f"it did not end within {TOOL_TIME:.0f} s"
    except SnapshotError as error:
        if program is None or program.process.returncode < 0:
            return str(error)
        return complaint(f"{said.decode(errors='replace')}\n{program.said}")[:LONGEST_LINE]
    return ""


def _close(item: Frozen) -> None:
    """Nobody but the runner opens a server; the tool opens one from which it has fetched transactions."""
    if read_state(item.conn).serves:
        LOG.warning("%s has opened %s: closing it", NAME, item.peer.name)
        operations.close_server(item.conn)


def _wrong(item: Frozen, chosen: Frozen) -> str:
    """Return what keeps this replica from following the chosen node; nothing if it does."""
    last: list[ReplicationState | None] = [None]

    def settled() -> bool:
        state = last[0] = read_state(item.conn).replication
        return state is None or bool(state.source_log_file or state.io_errno or state.sql_errno)

    try:
        with item.conn.timeout(LOOK_TIME):
            _close(item)
            poll_until(settled, Deadline(SETTLE_TIME))
    except MySQLError as error:
        return str(error)
    if item.state.semisync is not None:
        return "in a server with semi-sync every node replicates under an account of its own"
    state = last[0]
    if state is None:
        return "it has no source"
    source = f"{state.source_host}:{state.source_port}"
    if (source, state.auto_position) != (f"{chosen.peer.address}:{chosen.peer.port}", True):
        return f"its source is {source}, AUTO_POSITION {state.auto_position:d}"
    if state.io_running != "Yes" or not state.source_log_file:
        return state.io_error or f"its receiver is at {state.io_running}"
    return "" if state.sql_running else state.sql_error or "its applier does not run"
