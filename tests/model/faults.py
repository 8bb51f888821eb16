"""What may go wrong between any two steps, each as often as `Left` allows."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import mysql
from tests.model.world import NOBODY, NODES, World, bit, busy, change, end, nodes


def faults(world: World) -> Iterator[tuple[str, World]]:
    """All faults that are possible now."""
    if world.alone != NOBODY:
        yield "the partition heals", world._replace(alone=NOBODY)
    left = world.left
    if not left.faults:
        return
    spent = left._replace(faults=left.faults - 1)
    for process in world.processes:
        name = f"{process.at}: the {process.kind} before '{process.step}'"
        if left.crashes:
            yield (
                f"{name} is killed",
                end(world, process)._replace(left=spent._replace(crashes=left.crashes - 1)),
            )
        if left.guards:
            for n in nodes(process.guards):
                rest = [p for p in world.processes if p is not process]
                cut = process._replace(guards=process.guards & ~bit(n))
                after = world._replace(processes=tuple(sorted([*rest, cut])))
                yield (
                    f"{name}: its guard of {n} is killed",
                    after._replace(left=spent._replace(guards=left.guards - 1)),
                )
    if left.kills:
        yield from _kills(world._replace(left=spent._replace(kills=left.kills - 1)))
    if left.sessions and world.lock != NOBODY:
        after = _freed(world)._replace(left=spent._replace(sessions=left.sessions - 1))
        yield f"Consul ends the session of {world.lock}", after
    if left.partitions and world.alone == NOBODY:
        for n in NODES:
            after = world._replace(alone=n, left=spent._replace(partitions=left.partitions - 1))
            yield f"{n} is cut off from the other nodes", after


def _kills(world: World) -> Iterator[tuple[str, World]]:
    """kill -9 of a mysqld, and `pre_start`, which frees PRIMARY_KEY unless Consul gives no answer."""
    for n, server in enumerate(world.servers):
        forgetful = [False]
        if server.source != NOBODY and server.applied != server.has:
            forgetful.append(True)
        for forgets in forgetful:
            text = f"{n}: mysqld is killed and starts" + (
                ", received transactions are lost" if forgets else ""
            )
            after = mysql.killed(world, n, forgets=forgets)
            if world.lock != n:
                yield text, after
                continue
            yield f"{text}; its session is destroyed", _freed(after)
            if world.left.lost and world.left.faults:
                left = world.left._replace(lost=world.left.lost - 1, faults=world.left.faults - 1)
                yield f"{text}; its session lives on", after._replace(left=left)


def _freed(world: World) -> World:
    """A session ends: what it wrote and had no answer to is refused from now on."""
    flights = tuple(f for f in world.flights if f.kind != "update")
    return world._replace(lock=NOBODY, flights=flights)


def demotions(world: World) -> Iterator[tuple[str, World]]:
    """`steps._close`: an open server whose epoch is over. Commits that wait make it kill mysqld."""
    for n, server in enumerate(world.servers):
        if server.open and world.record.primary != n and not busy(world, n):
            if mysql.waiting(world, n):
                yield f"{n}: health closes it, by a kill", mysql.killed(world, n, forgets=False)
            else:
                yield f"{n}: health closes it", change(world, n, open=False)
