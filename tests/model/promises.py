"""What must hold in every state (docs/failover.md, Invariants)."""

from __future__ import annotations

from tests.model import mysql
from tests.model.world import World, bit, covers, nodes


def broken(world: World) -> str:
    """Say which promise does not hold; empty if all do."""
    return _lost(world) or _i1(world) or _i2(world) or _i3(world) or _opening(world) or _diverged(world)


def _lost(world: World) -> str:
    """A promotion: the promoted node had executed everything acknowledged before, and nothing is afterwards."""
    for epoch in range(world.record.epoch):
        if world.acked[epoch] > world.base[epoch]:
            return (
                f"lost: {world.acked[epoch]} acknowledged at epoch {epoch}, promoted with {world.base[epoch]}"
            )
    return ""


def _i1(world: World) -> str:
    """While A is not empty, a node of A holds everything that was acknowledged.

    Unless one of A has its variable OFF: it restarted, may have forgotten, and nobody is promoted meanwhile.
    """
    epoch, members = world.record.epoch, nodes(world.record.members)
    if members and all(world.servers[n].variable for n in members):
        held = max(world.servers[n].has[epoch] for n in members)
        if held < world.acked[epoch]:
            return f"I1: {world.acked[epoch]} acknowledged, {held} held by A={world.record.members:03b}"
    server = world.servers[world.record.primary]
    if members and server.open and server.opened == epoch and not server.waits:
        return f"I1: {world.record.primary} does not wait for A={world.record.members:03b}"
    return ""


def _i2(world: World) -> str:
    """Only nodes of A can acknowledge; while A is empty, one at most: the one that is being admitted."""
    record, server = world.record, world.servers[world.record.primary]
    if not server.open or server.opened != record.epoch or not server.waits:
        return ""
    able = mysql.ackers(world, record.primary)
    mask = sum(map(bit, able))
    if mask & ~record.members and (record.members or len(able) > 1):
        return f"I2: {mask:03b} can acknowledge, A={record.members:03b}"
    return ""


def _i3(world: World) -> str:
    """At most one server can have its clients' commits acknowledged: the open one of the record's epoch."""
    for n, server in enumerate(world.servers):
        current = n == world.record.primary and server.opened == world.record.epoch
        if server.open and not current and (not server.waits or mysql.ackers(world, n)):
            return f"I3: {n} can acknowledge at epoch {server.opened}, the record is at {world.record.epoch}"
    return ""


def _opening(world: World) -> str:
    """A promoted server waits for acknowledgements from the start."""
    for process in world.processes:
        n = process.primary
        if process.step == "open: clients" and process.guards & bit(n):
            server = world.servers[n]
            if not server.waits and server.opened != process.epoch:
                return f"{n} was promoted, and opens without waiting for anybody"
    return ""


def _diverged(world: World) -> str:
    """Nobody follows the primary with transactions that it lacks."""
    p = world.record.primary
    source = world.servers[p]
    for n, server in enumerate(world.servers):
        if source.open and server.source == p and server.connected and not covers(source.has, server.has):
            return f"diverged: {n} follows {p} with transactions that it lacks"
    return ""
