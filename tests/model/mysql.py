"""mysqld in the model: replication, semi-sync, accounts, kill -9, and what follows from them by itself."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.world import (
    EVERYBODY,
    NOBODY,
    NODES,
    Server,
    World,
    bit,
    change,
    covers,
    nodes,
    raised,
    reach,
)


def settle(world: World) -> World:
    """What happens without anybody's step: receivers connect, and what they hold is acknowledged.

    Both at once, which is the worst case: whatever may be acknowledged has been.
    """
    for node in NODES:
        server = world.servers[node]
        if server.receiving and not server.connected and _let_in(world, node):
            # At a reconnect a receiver may take the variable over.
            on = server.acknowledges or server.variable
            world = change(world, node, connected=True, acknowledges=on)
    acked = world.acked
    for node, server in enumerate(world.servers):
        if not server.open:
            continue
        epoch = server.opened
        if not server.waits:
            acked = raised(acked, epoch, server.has[epoch])
        for other in ackers(world, node):
            acked = raised(acked, epoch, world.servers[other].has[epoch])
    return world._replace(acked=acked)


def ackers(world: World, source: int) -> list[int]:
    """The nodes whose receivers are connected to this server and acknowledge."""
    return [n for n, s in enumerate(world.servers) if s.source == source and s.connected and s.acknowledges]


def waiting(world: World, node: int) -> bool:
    """True if commits of this open server have not been acknowledged."""
    server = world.servers[node]
    return server.opened != NOBODY and server.has[server.opened] > world.acked[server.opened]


def marker(world: World, node: int) -> bool:
    """`semisync.marker`: True if a commit made now could be acknowledged: cumulative, so by one that has all.

    Without semi-sync it is acknowledged at once; on a closed server it fails.
    """
    server = world.servers[node]
    if not server.open:
        return False
    if not server.waits:
        return True
    near = [n for n in ackers(world, node) if reach(world, n, node)]
    return any(covers(world.servers[n].has, server.has) for n in near)


def write(world: World) -> Iterator[tuple[str, World]]:
    """A client commits on an open server; whether it gets an answer is up to `settle`."""
    if world.left.writes == 0:
        return
    left = world.left._replace(writes=world.left.writes - 1)
    for node, server in enumerate(world.servers):
        if server.open:
            has = raised(server.has, server.opened, server.has[server.opened] + 1)
            yield f"{node}: a client commits", change(world, node, has=has)._replace(left=left)


def receive(world: World) -> Iterator[tuple[str, World]]:
    """A connected receiver gets the next transaction of its source's binlog."""
    for node, server in enumerate(world.servers):
        if not server.connected or not reach(world, node, server.source):
            continue
        for epoch, number in enumerate(world.servers[server.source].has):
            if server.has[epoch] < number:
                has = raised(server.has, epoch, server.has[epoch] + 1)
                yield f"{node}: receives from {server.source}", change(world, node, has=has)
                break


def reconnect(world: World) -> Iterator[tuple[str, World]]:
    """A connection breaks and is made again: the receiver may acknowledge then, if its variable is ON."""
    for node, server in enumerate(world.servers):
        if server.connected and server.variable and not server.acknowledges:
            yield f"{node}: its receiver reconnects", change(world, node, connected=False)


def stop_receiver(world: World, node: int) -> World:
    """`replication.stop_io`."""
    return change(world, node, receiving=False, connected=False, acknowledges=False)


def start_receiver(world: World, node: int, **fields: object) -> World:
    """START REPLICA: the receiver takes the variable over; `settle` connects it if it is let in."""
    world = stop_receiver(world, node)
    return change(world, node, receiving=True, acknowledges=world.servers[node].variable, **fields)


def lock_accounts(world: World, node: int, mask: int) -> World:
    """The first half of `semisync.cut_off`: those that are connected stay so, and go on acknowledging."""
    return change(world, node, unlocked=world.servers[node].unlocked & (EVERYBODY ^ mask))


def kill_connections(world: World, node: int, mask: int) -> World:
    """The second half of `semisync.cut_off`."""
    for other in nodes(mask):
        if world.servers[other].source == node:
            world = change(world, other, connected=False)
    return world


def killed(world: World, node: int, *, forgets: bool) -> World:
    """kill -9 and a start: closed, both switches off, nothing runs; what waited is in the binlog.

    `forgets`: what was received and not yet applied is gone.
    """
    server = world.servers[node]
    left = Server(
        has=server.applied if forgets and server.source != NOBODY else server.has,
        applied=server.applied,
        opened=server.opened,
        source=server.source,
        unlocked=server.unlocked,
    )
    servers = [left if n == node else s for n, s in enumerate(world.servers)]
    for n, other in enumerate(servers):
        if other.source == node and n != node:
            servers[n] = other._replace(connected=False)
    processes = tuple(sorted(p._replace(guards=p.guards & ~bit(node)) for p in world.processes))
    return world._replace(servers=tuple(servers), processes=processes)


def _let_in(world: World, node: int) -> bool:
    source = world.servers[node].source
    return bool(world.servers[source].unlocked & bit(node)) and reach(world, node, source)
