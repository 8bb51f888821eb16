"""Equal situations as equal states: what nobody will ever read again is cleared, and names do not count."""

from __future__ import annotations

from functools import cache

from tests.model.world import NOBODY, NODES, World, bit, nodes

Names = tuple[int, int, int, int]


def cleared(world: World) -> World:
    """The world without what no step will read."""
    record, left = world.record, world.left
    kills = left.kills if left.faults else 0
    sources = [server.source for server in world.servers]
    busy = [process.primary for process in world.processes]
    servers = list(world.servers)
    for n, server in enumerate(servers):
        if not kills and server.applied != server.has:
            servers[n] = server = server._replace(applied=server.has)
        if n != record.primary and not server.open and n not in busy:
            unlocked = server.unlocked if n in sources else 0
            servers[n] = server._replace(waits=False, opened=NOBODY, unlocked=unlocked)
    if not left.faults:
        left = left._replace(kills=0, crashes=0, guards=0, lost=0, sessions=0, partitions=0)
    return world._replace(servers=tuple(servers), left=left)


def key(world: World) -> int:
    """A number that worlds share which differ in the names of nodes only: the record's primary is called 0."""
    p = world.record.primary
    one, other = (n for n in NODES if n != p)
    looks = [
        (world.servers[n]._replace(source=0, unlocked=0), world.record.members >> n & 1) for n in (one, other)
    ]
    found = []
    if looks[0] <= looks[1]:
        found.append(hash(renamed(world, _names(p, one, other))))
    if looks[1] <= looks[0]:
        found.append(hash(renamed(world, _names(p, other, one))))
    return min(found)


@cache
def _names(*order: int) -> Names:
    """The node order[0] is called 0, and so on."""
    to = [order.index(n) for n in NODES]
    return (to[0], to[1], to[2], NOBODY)


@cache
def _sets(to: Names) -> list[int]:
    return [sum(bit(to[n]) for n in nodes(mask)) for mask in range(8)]


def renamed(world: World, to: Names) -> World:
    """The world with each node n called to[n]."""
    if to == (0, 1, 2, NOBODY):
        return world
    sets = _sets(to)
    servers = list(world.servers)
    for n, server in enumerate(world.servers):
        servers[to[n]] = server._replace(source=to[server.source], unlocked=sets[server.unlocked])
    processes = [
        p._replace(
            at=to[p.at],
            guards=sets[p.guards],
            primary=to[p.primary],
            node=to[p.node],
            members=sets[p.members],
            spare=sets[p.spare],
            mask=sets[p.mask],
        )
        for p in world.processes
    ]
    record = world.record
    return world._replace(
        servers=tuple(servers),
        record=record._replace(primary=to[record.primary], members=sets[record.members]),
        lock=to[world.lock],
        flights=tuple(sorted(f._replace(members=sets[f.members], node=to[f.node]) for f in world.flights)),
        processes=tuple(sorted(processes)),
        alone=to[world.alone],
    )
