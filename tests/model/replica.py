"""A replica's own health: `steps._follow` (attach) and `steps._start` (go on after somebody's freeze)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import consul, mysql
from tests.model.world import (
    NOBODY,
    NODES,
    Flight,
    Process,
    Rules,
    World,
    begin,
    bit,
    busy,
    change,
    covers,
    end,
    go,
    guarded,
    holds,
    reach,
)

Steps = Iterator[World]


def begins(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """What `decide.health` may say to a node that the record does not name, while its primary serves."""
    p, record = world.record.primary, world.record
    source = world.servers[p]
    if not source.open or source.opened != record.epoch or world.lock not in (p, NOBODY):
        return
    for n in NODES:
        server = world.servers[n]
        if n == p or server.open or busy(world, n) or not reach(world, n, p) or guarded(world) & bit(n):
            continue
        if not covers(source.has, server.has):
            continue  # `decide.join.may_join`: it has diverged
        run = Process("follow", n, "follow: stop", guards=bit(n), primary=p, node=n)
        if not (server.source == p and server.connected):
            after = begin(world, run)
            if rules.compares_again:
                # The first comparison decides nothing then, and the guard keeps everybody else away.
                after = next(_follow_stop(after, run, rules))
            yield f"{n}: health: follow {p}", after
        if server.source == p and not server.receiving:
            step = "start: touch" if rules.touch_before_thaw else "start: receive"
            start = run._replace(kind="start", step=step, members=record.members)
            if not rules.thaw_under_guard:
                start = start._replace(guards=0)
            yield f"{n}: health: start", begin(world, start)


def _follow_stop(world: World, process: Process, rules: Rules) -> Steps:
    """`stop_io`; what it has is compared once more, now that nothing can arrive ; the variable OFF."""
    n = process.node
    diverged = not covers(world.servers[process.primary].has, world.servers[n].has)
    if not holds(world, process, n):
        yield end(world, process)
    elif diverged and rules.compares_again:
        yield mysql.stop_receiver(end(world, process), n)
    else:
        after = mysql.stop_receiver(go(world, process, step="follow: let in"), n)
        yield change(after, n, variable=False)


def _follow_let_in(world: World, process: Process, rules: Rules) -> Steps:
    """Under the primary's guard, the record read again: `semisync.let_in`."""
    n, p = process.node, process.primary
    if guarded(world) & bit(p):
        return
    if not process.fresh or not reach(world, n, p):
        yield end(world, process)
        return
    unlocked = world.servers[p].unlocked | bit(n)
    yield change(go(world, process, step="follow: receive"), p, unlocked=unlocked)


def _follow_receive(world: World, process: Process, rules: Rules) -> Steps:
    """`operations.follow`: what was received from the former source is kept."""
    n = process.node
    after = end(world, process)
    if holds(world, process, n):
        server = world.servers[n]
        applied = server.has if server.source == NOBODY else server.applied
        after = mysql.start_receiver(after, n, source=process.primary, applied=applied)
    yield after


def _start_touch(world: World, process: Process, rules: Rules) -> Steps:
    yield from consul.write(world, process, Flight("touch"), step="start: receive")


def _start_receive(world: World, process: Process, rules: Rules) -> Steps:
    """The variable OFF unless it is a member; `start_replication`."""
    n = process.node
    after = end(world, process)
    if world.servers[n].source != NOBODY and (holds(world, process, n) or not rules.thaw_under_guard):
        if not process.members & bit(n):
            after = change(after, n, variable=False)
        after = mysql.start_receiver(after, n)
    yield after


STEPS = {
    "follow: stop": _follow_stop,
    "follow: let in": _follow_let_in,
    "follow: receive": _follow_receive,
    "start: touch": _start_touch,
    "start: receive": _start_receive,
}
