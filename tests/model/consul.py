"""Consul in the model: compare-and-set of the record together with PRIMARY_KEY, and answers that get lost.

`discovery.Discovery.update`, `touch`, `promote` and `retake`. A write by a process that has not read the newest
record is refused. One without an answer ends its process (ConsulUnavailable) and may land later; every write
that lands moves the index, so that whatever else is on its way is refused from then on.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.world import LAST, NOBODY, Flight, Process, Record, World, begin, end


def write(world: World, process: Process, flight: Flight, **then: object) -> Iterator[World]:
    """The outcomes of a write: refused, confirmed (the process goes on, changed by `then`), or without an answer.

    A process whose last step this is ends (no `then`).
    """
    if not process.fresh or not _allowed(world, flight):
        yield end(world, process)
        return
    confirmed = land(end(world, process), flight)
    if then:
        after = process._replace(members=confirmed.record.members, **then)  # type: ignore[arg-type]
        confirmed = begin(confirmed, after._replace(fresh=after.step not in LAST))
    yield confirmed
    left = world.left
    if left.lost and left.faults:
        ended = end(world, process)
        yield ended._replace(
            flights=tuple(sorted({*world.flights, flight})),
            left=left._replace(lost=left.lost - 1, faults=left.faults - 1),
        )


def land(world: World, flight: Flight) -> World:
    """The world after `flight` has been carried out; everybody else's index is stale then."""
    record, lock = world.record, world.lock
    base, left = world.base, world.left
    if flight.kind == "update":
        record = record._replace(members=flight.members)
    elif flight.kind == "promote":
        record = Record(epoch=record.epoch + 1, primary=flight.node, members=0)
        lock = flight.node
        base = world.servers[flight.node].has
        left = left._replace(promotions=left.promotions - 1)
    return world._replace(
        record=record,
        lock=lock,
        base=base,
        left=left,
        flights=(),
        processes=tuple(sorted(p._replace(fresh=False) for p in world.processes)),
    )


def late(world: World) -> Iterator[tuple[str, World]]:
    """Each write on its way may land now. One that is refused for PRIMARY_KEY is as good as one that never lands."""
    for flight in world.flights:
        if _allowed(world, flight):
            yield f"Consul: {_name(flight)} lands", land(world, flight)


def retake(world: World) -> Iterator[tuple[str, World]]:
    """`steps._retake`: the node that the record names takes the free key, together with a touch.

    Its answer may get lost: then it lands now or later, which is the same as its being done then.
    """
    if world.lock == NOBODY:
        landed = land(world, Flight("touch"))
        yield f"{world.record.primary}: takes PRIMARY_KEY again", landed._replace(lock=world.record.primary)


def _allowed(world: World, flight: Flight) -> bool:
    if flight.kind == "update":
        return world.lock == world.record.primary
    if flight.kind == "promote":
        if world.left.promotions == 0:
            return False
        return world.lock == (world.record.primary if flight.unlock else NOBODY)
    return True


def _name(flight: Flight) -> str:
    if flight.kind == "update":
        return f"the write of A={flight.members:03b}"
    return f"the promotion of {flight.node}" if flight.kind == "promote" else "a touch"
