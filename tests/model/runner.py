"""The runner of a failover, step by step: `manager.failover.run`.

Fencing is left out: the model's runner never gets an answer from the old primary, which is the worst case.
"""

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
    change,
    covers,
    end,
    go,
    guarded,
    holds,
    nodes,
    reach,
)

Steps = Iterator[World]
RUNNERS = 2


def begins(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """`decide.failover.when` says GO or HAND_OVER: the key is free, or its holder answers and is closed.

    Two may run at once (the failover lock is no protection). The guards of all candidates, the second look at the
    record (`guard_replicas`), `stop_io`, `_drain` and `choose` are one step: frozen servers do not change, and what
    one receives while another is frozen it could have received before. A runner that misses a member does nothing.
    """
    record, p = world.record, world.record.primary
    members, unlock = record.members, world.lock == p
    if not members or not (world.lock == NOBODY or (unlock and not world.servers[p].open)):
        return
    if sum(process.kind == "runner" for process in world.processes) == RUNNERS:
        return
    cut = world.alone != NOBODY or world.left.partitions
    for at in [n for n in NODES if n != p] if cut else [NOBODY]:
        there = [n for n in NODES if n != p and world.servers[n].source != NOBODY]
        answer = sum(bit(n) for n in there if at == NOBODY or reach(world, at, n))
        # One that is no member may answer or not.
        for mask in {answer, answer & members}:
            if members & ~mask or guarded(world) & mask:
                continue
            run = Process("runner", at, "held", guards=mask, primary=p, members=members)
            run = run._replace(mask=mask, epoch=record.epoch, note=unlock)
            frozen = _freeze(world, mask)
            able = _choose(frozen, members, rules)
            if not able:
                yield f"a runner: freezes {mask:03b}, and finds nobody", frozen
            for n in able:
                text = f"a runner: freezes {mask:03b}, and chooses {n}"
                yield text, begin(frozen, run._replace(node=n))


def _freeze(world: World, mask: int) -> World:
    """`guard_replicas`, `stop_io` and `_drain`."""
    for n in nodes(mask):
        world = mysql.stop_receiver(world, n)
        world = change(world, n, applied=world.servers[n].has)
    return world


def _choose(world: World, members: int, rules: Rules) -> list[int]:
    """`decide.failover._choose_member`."""
    found = {n: world.servers[n] for n in nodes(members)}
    if not rules.restarted_members_count and not all(s.variable for s in found.values()):
        return []
    return [n for n, s in found.items() if all(covers(s.has, o.has) for o in found.values())]


def _held(world: World, process: Process, rules: Rules) -> Steps:
    """`_promote` asks whether all guards are still held."""
    good = all(holds(world, process, n) for n in nodes(process.mask))
    yield go(world, process, step="promote") if good else end(world, process)


def _promote(world: World, process: Process, rules: Rules) -> Steps:
    """`discovery.promote`, at the index that was read before the freeze."""
    flight = Flight("promote", node=process.node, unlock=process.note)
    then = {"step": "open: forget", "primary": process.node, "node": NOBODY, "note": True}
    if not rules.promotion_compares and world.left.promotions:
        after = consul.land(end(world, process), flight)
        after_it = process._replace(epoch=after.record.epoch, fresh=True, members=0)
        yield begin(after, after_it._replace(**then))  # type: ignore[arg-type]
    else:
        yield from consul.write(world, process, flight, epoch=process.epoch + 1, **then)


def _repoint_off(world: World, process: Process, rules: Rules) -> Steps:
    """`_sound`: one that has diverged is left alone; `become_replica`. Then `membership.admit_first`."""
    chosen = world.servers[process.primary]
    others = [n for n in nodes(process.mask) if n != process.primary]
    sound = [n for n in others if covers(chosen.has, world.servers[n].has) and holds(world, process, n)]
    if sound:
        n = sound[0]
        yield change(go(world, process, step="first: touch", node=n, mask=0), n, variable=False)
    else:
        yield end(world, process)


def _repoint_let_in(world: World, process: Process, rules: Rules) -> Steps:
    """`_let_in`, within `admit_first`."""
    if holds(world, process, process.primary):
        unlocked = world.servers[process.primary].unlocked | bit(process.node)
        after = go(world, process, step="repoint: follow")
        yield change(after, process.primary, unlocked=unlocked)
    else:
        yield end(world, process)


def _repoint_follow(world: World, process: Process, rules: Rules) -> Steps:
    """`_follow`, within `admit_first`: the switch is ON."""
    n = process.node
    if holds(world, process, n):
        after = mysql.settle(mysql.start_receiver(world, n, source=process.primary))
        yield go(after, process, step="first: marker" if after.servers[n].connected else "undo: lock")
    else:
        yield go(world, process, step="undo: lock")


STEPS = {
    "held": _held,
    "promote": _promote,
    "repoint: off": _repoint_off,
    "repoint: let in": _repoint_let_in,
    "repoint: follow": _repoint_follow,
}
