"""Opening the primary, step by step: `steps._open`, `failover._finish_opening`, `manager.opening`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import consul, mysql
from tests.model.membership import cut, kill
from tests.model.world import (
    EVERYBODY,
    NOBODY,
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
    nodes,
    raised,
)

Steps = Iterator[World]


def begins(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """The record's primary is closed: its own health opens it, or another node's runner, if it was promoted."""
    p, record = world.record.primary, world.record
    server = world.servers[p]
    if world.lock != p or (server.open and server.opened == record.epoch):
        return
    run = Process("open", p, "", guards=bit(p), primary=p, members=record.members, epoch=record.epoch)
    if not busy(world, p) and (server.opened != record.epoch or _held_by_a_member(world)):
        if rules.looks_before_guard:
            look = _first(world, run, rules)._replace(guards=0)
            yield f"{p}: health: open: looks", begin(world, look._replace(step=f"look: {look.step}"))
        elif not guarded(world) & bit(p):
            yield f"{p}: health: open", begin(world, _first(world, run, rules))
    if server.opened != record.epoch and not guarded(world) & bit(p):
        finish = run._replace(kind="finish", at=NOBODY)
        yield "a runner: finish", begin(world, _first(world, finish, rules))


def _held_by_a_member(world: World) -> bool:
    """`decide.health._restarted`: without members nobody needs to have received what this server shows."""
    members = nodes(world.record.members)
    mine = world.servers[world.record.primary].has
    return not members or any(covers(world.servers[n].has, mine) for n in members)


def _first(world: World, process: Process, rules: Rules) -> Process:
    """The process before its first step of `open_primary`, which depends on what its server says.

    `note`: it was promoted; `spare`: it waits for acknowledgements already.
    """
    server = world.servers[process.primary]
    process = process._replace(spare=int(server.waits))
    if server.source != NOBODY or (rules.promoted_by_epoch and server.opened != process.epoch):
        return process._replace(step="open: forget", note=True)
    return process._replace(step="open: touch" if rules.touch_before_opening else "open: semisync")


def _guard(world: World, process: Process, rules: Rules) -> Steps:
    n = process.primary
    if guarded(world) & bit(n):
        return
    if process.fresh and world.lock == n:
        yield go(world, process, step=process.step.removeprefix("look: "), guards=bit(n))
    else:
        yield end(world, process)


def _touch(world: World, process: Process, rules: Rules) -> Steps:
    """A write confirmed under the guard: what an earlier run had on its way is refused from now on."""
    yield from consul.write(world, process, Flight("update", process.members), step="open: semisync")


def _forget(world: World, process: Process, rules: Rules) -> Steps:
    """`stop_replication` and `forget_source`; what it had received is applied by now."""
    n = process.primary
    if not holds(world, process, n):
        yield end(world, process)
        return
    after = mysql.stop_receiver(go(world, process, step="open: lock"), n)
    yield change(after, n, source=NOBODY, applied=world.servers[n].has)


def _lock(world: World, process: Process, rules: Rules) -> Steps:
    yield from cut(world, process, EVERYBODY, "open: kill", rules)


def _semisync(world: World, process: Process, rules: Rules) -> Steps:
    """`set_replica` OFF; `set_source` ON after a promotion, with members, or if it was on."""
    n = process.primary
    if not holds(world, process, n):
        yield end(world, process)
        return
    waits = process.note or bool(process.members) or bool(process.spare)
    yield change(go(world, process, step="open: clients", spare=0), n, variable=False, waits=waits)


def _clients(world: World, process: Process, rules: Rules) -> Steps:
    """`operations.open_for_writing`. What a restarted primary shows to clients counts as acknowledged."""
    n, epoch = process.primary, process.epoch
    if not holds(world, process, n):
        yield end(world, process)
        return
    after = go(world, process, step="repoint: off") if process.kind == "runner" else end(world, process)
    if not process.note:
        after = after._replace(acked=raised(after.acked, epoch, world.servers[n].has[epoch]))
    yield change(after, n, opened=epoch, open=True)


STEPS = {
    "look: open: forget": _guard,
    "look: open: touch": _guard,
    "look: open: semisync": _guard,
    "open: touch": _touch,
    "open: forget": _forget,
    "open: lock": _lock,
    "open: kill": kill,
    "open: semisync": _semisync,
    "open: clients": _clients,
}
