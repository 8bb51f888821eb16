"""The members of the open primary, step by step: `members.see_to` and `manager.membership`.

Time limits are left out: a member may be found lost, and a primary may go alone, at any moment. Taking the guard
and reading the record again (`still_true`), with the first step after it, is one step here: nothing that others
do in between could not have happened before.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import consul, mysql
from tests.model.world import (
    EVERYBODY,
    NODES,
    Flight,
    Process,
    Rules,
    World,
    begin,
    bit,
    busy,
    change,
    end,
    go,
    guarded,
    holds,
    reach,
)

Steps = Iterator[World]
MOST = 2
FIRST = {"admit": "admit: guard", "remove": "remove: lock", "alone": "alone: lock"}
AFTER_CUT = {
    "first: kill": "first: wait",
    "undo: kill": "undo: touch",
    "remove: kill": "remove: marker",
    "alone: kill": "alone: record",
    "open: kill": "open: semisync",
}


def begins(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """The changes that `decide.membership.change` may return, and `decide.health._restarted`'s going alone."""
    p, members = world.record.primary, world.record.members
    server = world.servers[p]
    if busy(world, p) or world.lock != p:
        return
    run = Process("", p, "", guards=bit(p), primary=p, members=members)
    serves = server.open and server.opened == world.record.epoch
    if (members and server.opened == world.record.epoch) or (serves and server.waits):
        spare = not_acknowledging(world) & ~members
        yield from _begin(world, run._replace(kind="alone", spare=spare), rules)
    for n in NODES if serves else ():
        if members & bit(n):
            if members != bit(n):
                yield from _begin(world, run._replace(kind="remove", node=n), rules)
        elif n != p and attached(world, n, p) and members.bit_count() < MOST:
            spare = 0 if members or rules.first_admission_spares_nobody else not_acknowledging(world)
            admit = run._replace(kind="admit", node=n, guards=bit(p) | bit(n), spare=spare)
            yield from _begin(world, admit, rules)


def _begin(world: World, run: Process, rules: Rules) -> Iterator[tuple[str, World]]:
    text = f"{run.at}: health: {run.kind}" + ("" if run.kind == "alone" else f" {run.node}")
    if rules.looks_before_guard:
        yield f"{text}: looks", begin(world, run._replace(step="guard", mask=run.guards, guards=0))
    elif not guarded(world) & run.guards:
        run = run._replace(step=FIRST[run.kind])
        for after in STEPS[run.step](begin(world, run), run, rules):
            yield text, after


def attached(world: World, node: int, primary: int) -> bool:
    """`decide.membership._receives`, as the primary's hooks can see it."""
    server = world.servers[node]
    return server.source == primary and server.connected and reach(world, node, primary)


def not_acknowledging(world: World) -> int:
    """`membership.not_acknowledging`: those whose variable is seen OFF."""
    return sum(
        bit(n) for n in NODES if not world.servers[n].variable and reach(world, n, world.record.primary)
    )


def _guard(world: World, process: Process, rules: Rules) -> Steps:
    """`guard` and `still_true`, some time after the look on which the run was decided."""
    if guarded(world) & process.mask:
        return
    if not process.fresh or world.lock != process.primary:
        yield end(world, process)
    else:
        yield go(world, process, step=FIRST[process.kind], guards=process.mask, mask=0)


# --- membership.admit -------------------------------------------------------------------------------


def _admit(world: World, process: Process, rules: Rules) -> Steps:
    """A not empty: the record first. A empty: the record last, and a touch first."""
    if process.members:
        more = process.members | bit(process.node)
        yield from consul.write(world, process, Flight("update", more), step="admit: on")
    else:
        yield from _first_touch(world, process, rules)


def _on(world: World, process: Process, rules: Rules) -> Steps:
    """`semisync.set_replica`: the receiver that runs is not affected."""
    n = process.node
    step = "admit: restart" if process.step == "admit: on" else "first: restart"
    if process.kind == "runner":
        step = "repoint: let in"
    if holds(world, process, n):
        yield change(go(world, process, step=step), n, variable=True)
    else:
        yield end(world, process)


def _admit_restart(world: World, process: Process, rules: Rules) -> Steps:
    """`semisync.restart_receiver`. The marker after it has no consequence, so it is left out."""
    n = process.node
    after = end(world, process)
    yield mysql.start_receiver(after, n) if holds(world, process, n) else after


def _first_touch(world: World, process: Process, rules: Rules) -> Steps:
    """A write of the record confirmed under the guard, before anybody new can acknowledge."""
    then = {"step": "first: lock", "note": world.servers[process.primary].waits}
    if rules.touch_before_first_admission:
        yield from consul.write(world, process, Flight("update"), **then)
    else:
        yield go(world, process, **then)


def _first_lock(world: World, process: Process, rules: Rules) -> Steps:
    """`_cut_off` everybody else."""
    others = EVERYBODY & ~(process.spare | bit(process.node))
    yield from cut(world, process, others, "first: kill", rules)


def _first_wait(world: World, process: Process, rules: Rules) -> Steps:
    """`semisync.set_source`: commits wait from now on."""
    if holds(world, process, process.primary):
        yield change(go(world, process, step="first: on"), process.primary, waits=True)
    else:
        yield end(world, process)


def _first_restart(world: World, process: Process, rules: Rules) -> Steps:
    """`semisync.restart_receiver`; a receiver that does not come back is no acknowledgement."""
    n = process.node
    after = mysql.settle(mysql.start_receiver(world, n)) if holds(world, process, n) else world
    yield go(after, process, step="first: marker" if after.servers[n].connected else "undo: lock")


def _first_marker(world: World, process: Process, rules: Rules) -> Steps:
    """Sent on a connection of its own, so it needs no guard."""
    good = mysql.marker(world, process.primary) or not rules.marker_at_first_admission
    yield go(world, process, step="first: record" if good else "undo: lock")


def _first_record(world: World, process: Process, rules: Rules) -> Steps:
    yield from consul.write(world, process, Flight("update", bit(process.node)))


def _undo_lock(world: World, process: Process, rules: Rules) -> Steps:
    yield from cut(world, process, bit(process.node), "undo: kill", rules)


def _undo_touch(world: World, process: Process, rules: Rules) -> Steps:
    if process.note:  # semi-sync was on before
        yield from consul.write(world, process, Flight("update"))
    else:
        yield from consul.write(world, process, Flight("update"), step="undo: off")


# --- membership.remove ------------------------------------------------------------------------------


def _remove_lock(world: World, process: Process, rules: Rules) -> Steps:
    if rules.removal_cuts_off:
        yield from cut(world, process, bit(process.node), "remove: kill", rules)
    else:
        yield go(world, process, step="remove: marker")


def _remove_marker(world: World, process: Process, rules: Rules) -> Steps:
    good = mysql.marker(world, process.primary)
    yield go(world, process, step="remove: record") if good else end(world, process)


def _remove_record(world: World, process: Process, rules: Rules) -> Steps:
    yield from consul.write(world, process, Flight("update", process.members & ~bit(process.node)))


# --- membership.go_alone ----------------------------------------------------------------------------


def _alone_lock(world: World, process: Process, rules: Rules) -> Steps:
    yield from cut(world, process, EVERYBODY & ~process.spare, "alone: kill", rules)


def _alone_record(world: World, process: Process, rules: Rules) -> Steps:
    if rules.off_before_record:
        yield from consul.write(world, process, Flight("update"))
    else:
        yield from consul.write(world, process, Flight("update"), step="alone: off")


def _off(world: World, process: Process, rules: Rules) -> Steps:
    """`semisync.set_source`: whatever waited is acknowledged."""
    if not holds(world, process, process.primary):
        yield end(world, process)
        return
    if rules.off_before_record and process.step == "alone: off":
        after = go(world, process, step="alone: record", fresh=True)
    else:
        after = end(world, process)
    yield change(after, process.primary, waits=False)


# --- semisync.cut_off: the accounts are locked, then their connections are killed ---------------------


def cut(world: World, process: Process, mask: int, kill: str, rules: Rules) -> Steps:
    """Lock the accounts of `mask`, and go on to step `kill`; past it if there is nobody to cut off."""
    n = process.primary
    if not holds(world, process, n):
        yield end(world, process)
        return
    if kill in ("first: kill", "alone: kill") and not rules.cuts_off_the_locked:
        mask &= world.servers[n].unlocked
    followers = sum(bit(x) for x in NODES if world.servers[x].source == n and world.servers[x].connected)
    if mask & (world.servers[n].unlocked | followers):
        yield mysql.lock_accounts(go(world, process, step=kill, mask=mask, spare=0), n, mask)
    else:
        yield go(world, process, step=_after_cut(kill, rules), spare=0)


def kill(world: World, process: Process, rules: Rules) -> Steps:
    """End all connections of those accounts."""
    n = process.primary
    if not holds(world, process, n):
        yield end(world, process)
        return
    after = go(world, process, step=_after_cut(process.step, rules), mask=0)
    yield mysql.kill_connections(after, n, process.mask)


def _after_cut(step: str, rules: Rules) -> str:
    if step == "alone: kill" and rules.off_before_record:
        return "alone: off"
    return AFTER_CUT[step]


STEPS = {
    "guard": _guard,
    "admit: guard": _admit,
    "admit: on": _on,
    "admit: restart": _admit_restart,
    "first: touch": _first_touch,
    "first: lock": _first_lock,
    "first: kill": kill,
    "first: wait": _first_wait,
    "first: on": _on,
    "first: restart": _first_restart,
    "first: marker": _first_marker,
    "first: record": _first_record,
    "undo: lock": _undo_lock,
    "undo: kill": kill,
    "undo: touch": _undo_touch,
    "undo: off": _off,
    "remove: lock": _remove_lock,
    "remove: kill": kill,
    "remove: marker": _remove_marker,
    "remove: record": _remove_record,
    "alone: lock": _alone_lock,
    "alone: kill": kill,
    "alone: record": _alone_record,
    "alone: off": _off,
}
