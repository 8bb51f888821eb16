"""A server that does not answer health: dead, or alive and sick (a full or hung disk, logins that block).

A dead one is the pilot's to start again. A sick primary is closed by its own node after two silent runs, and
killed after 5 s in which health could not even log in: a user's account statement that waits for an
acknowledgement blocks every login, and then nobody can close the server any more (measured). It comes back by
the rules for a restart.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time

from manager import metrics, process
from manager.errors import ConsulError, MySQLError
from manager.hooks import last
from manager.mysql import operations
from manager.node import Node

LOG = logging.getLogger(__name__)

FILE = "silent.json"
CLOSE_AFTER = 2
KILL_AFTER = 5.0


def over(node: Node) -> None:
    """The server has answered all that health asked."""
    (node.settings.run_dir / FILE).unlink(missing_ok=True)
    is_alive(node)


def is_alive(node: Node) -> None:
    """Tell the pilot that the server answers, whatever else is wrong."""
    last.answered(node.settings.run_dir, yes=True)
    with contextlib.suppress(ConsulError):
        node.pilot.answers(yes=True)


def is_down(node: Node) -> None:
    """Tell the pilot, and whoever looks at the metrics, that the server does not answer."""
    last.answered(node.settings.run_dir, yes=False)
    node.pilot.put(metrics.DOWN)
    with contextlib.suppress(ConsulError):
        node.pilot.answers(yes=False)


def goes_on(node: Node) -> None:
    """The server has not answered again: do what a sick primary needs."""
    runs, since = _count(node)
    if runs < CLOSE_AFTER:
        return
    is_down(node)
    if not last.was_primary(node.settings.run_dir) or process.pid(node.settings) is None:
        return
    try:
        node.discovery.destroy_session()
    except ConsulError as error:
        LOG.warning("PRIMARY_KEY could not be freed: %s", error)
    try:
        with node.local(timeout=1.0) as conn:
            LOG.error("the primary has not answered in %d runs: closing it", runs)
            operations.close_server(conn, read_only_timeout=1.0)
    except MySQLError as error:
        silent = time.monotonic() - since
        LOG.error("the primary could not be closed after %.0f s of silence: %s", silent, error)
        if silent >= KILL_AFTER:
            LOG.error("killing mysqld, which comes back closed")
            node.kill_server()


def _count(node: Node) -> tuple[int, float]:
    """Return for how many runs in a row, and since when on the monotonic clock, the server has been silent."""
    path = node.settings.run_dir / FILE
    runs, since = 0, time.monotonic()
    try:
        content = json.loads(path.read_text())
        if float(content["since"]) <= since:
            runs, since = int(content["runs"]), float(content["since"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    temporary = path.with_name(f"{FILE}.{os.getpid()}")
    temporary.write_text(json.dumps({"runs": runs + 1, "since": since}))
    os.replace(temporary, path)
    return runs + 1, since
