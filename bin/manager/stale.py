"""Taking a guard away from a holder that makes no progress: stopped, frozen, or cut off (SPEC 7, Guard)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from manager.discovery.cluster import ClusterView
from manager.errors import GuardBusy, MySQLError
from manager.mysql.connection import Connection
from manager.mysql.guard import kill_stale_guard

STALE = 5.0


@contextlib.contextmanager
def stale_guard_taken(conn: Connection, cluster: ClusterView | None) -> Iterator[None]:
    """Let GuardBusy pass; if it is `conn`'s server whose guard is held for too long, its holder is killed first.

    Whoever comes next, most likely the same hook's next run, gets the guard. The guards of a runner that holds
    the failover lock are left alone while its step is younger than 5 s.
    """
    try:
        yield
    except GuardBusy:
        if not _runner_is_at_work(cluster):
            with contextlib.suppress(MySQLError):
                kill_stale_guard(conn, older_than_s=STALE)
        raise


def _runner_is_at_work(cluster: ClusterView | None) -> bool:
    at = cluster.failover_step_at if cluster is not None else None
    return at is not None and time.time() - at <= STALE
