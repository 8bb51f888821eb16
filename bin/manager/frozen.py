"""A replica in the hands of a runner: what `promotion` and the engine that it uses work on."""

from __future__ import annotations

from dataclasses import dataclass

from manager.mysql.connection import Connection
from manager.mysql.state import ServerState
from manager.view import Peer


@dataclass
class Frozen:
    """A replica that this runner has guarded and whose IO thread it has stopped."""

    peer: Peer
    conn: Connection
    state: ServerState
    drained: bool = False
    fault: str = ""

    @property
    def may_get_on(self) -> bool:
        """False once the applier has stopped, or cannot be started: waiting for it is of no use."""
        return not self.fault and self.state.replication is not None and self.state.replication.sql_running
