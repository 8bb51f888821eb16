"""The model's world: the record, PRIMARY_KEY, three servers, and the hooks at work on them.

Everything is an immutable tuple that can be hashed and compared. Numbers that only grow are left out: instead
of the record's index a process keeps whether what it has read is still the newest (`fresh`), and a write on its
way is forgotten once it would be refused. So the states are finite, and equal situations are equal states.
"""

from __future__ import annotations

from typing import NamedTuple

NODES = (0, 1, 2)
NOBODY = 3
EVERYBODY = 0b111
EPOCHS = 3

Vector = tuple[int, ...]
"""Numbers of transactions, by the epoch at which they were made: of one epoch a server holds a first part."""


class Rules(NamedTuple):
    """What the protocol does. Each field that differs from its default is a mutant, which a test must catch."""

    marker_at_first_admission: bool = True
    promotion_compares: bool = True
    touch_before_thaw: bool = True
    removal_cuts_off: bool = True
    restarted_members_count: bool = False
    off_before_record: bool = False
    thaw_under_guard: bool = True
    # Holes that this model has found in the code, and that stay closed:
    touch_before_first_admission: bool = True
    cuts_off_the_locked: bool = True
    first_admission_spares_nobody: bool = True
    touch_before_opening: bool = True
    promoted_by_epoch: bool = True
    compares_again: bool = True
    # No mutant: the primary's health decides on what it saw before it took the guard, which must be safe.
    looks_before_guard: bool = False


class Left(NamedTuple):
    """How often each thing may still happen. `faults` bounds all that follow it together."""

    writes: int = 1
    promotions: int = 1
    faults: int = 0
    kills: int = 0
    crashes: int = 0
    guards: int = 0
    lost: int = 0
    sessions: int = 0
    partitions: int = 0


class Server(NamedTuple):
    """One mysqld. `has` is what it received or committed itself, `applied` what a kill surely leaves of it.

    `opened`: the epoch in its local row. `waits`: commits wait for acknowledgements. `variable`: its receiver
    acknowledges from its next start on; `acknowledges`: the one that runs does. `unlocked`: the nodes whose
    accounts are unlocked here.
    """

    has: Vector
    applied: Vector
    open: bool = False
    opened: int = NOBODY
    waits: bool = False
    variable: bool = False
    source: int = NOBODY
    receiving: bool = False
    acknowledges: bool = False
    connected: bool = False
    unlocked: int = 0


class Record(NamedTuple):
    """The record in Consul; its index is not here (see above). Epochs begin at 0."""

    epoch: int
    primary: int
    members: int


class Flight(NamedTuple):
    """A write of the record that got no answer. It may land later, while the index has not moved."""

    kind: str  # "update" by the holder of PRIMARY_KEY, "touch" by anybody, "promote" to `node`
    members: int = 0
    node: int = NOBODY
    unlock: bool = False


class Process(NamedTuple):
    """A hook at work on node `at`, before its step `step`. One that is stopped is one that is not chosen.

    `guards`: the servers whose guard it holds, on connections that live. `primary` is the server whose members
    or opening it sees to, `node` the one it is about, `members` and `epoch` what it has read of the record,
    `spare` whom it does not cut off, `mask` whom it freezes or cuts off, `note` one fact that it has read.
    """

    kind: str
    at: int
    step: str
    fresh: bool = True
    guards: int = 0
    primary: int = NOBODY
    node: int = NOBODY
    members: int = 0
    epoch: int = 0
    spare: int = 0
    mask: int = 0
    note: bool = False


class World(NamedTuple):
    """A state. `acked`: of each epoch, how much some client was told is committed. `base`: what the last
    promoted server had. `alone`: the node that is cut off from the other nodes (not from Consul), or NOBODY."""

    servers: tuple[Server, ...]
    record: Record
    lock: int
    flights: tuple[Flight, ...]
    processes: tuple[Process, ...]
    acked: Vector
    base: Vector
    alone: int
    left: Left


LAST = ("admit: on", "admit: restart", "alone: off", "undo: off", "follow: receive", "start: receive")
"""Steps from which on a process does not care any more for what the record says."""

OUTSIDE = ("runner", "finish")
"""Hooks that work for the whole cluster; where they run matters only in a partition."""


def bit(node: int) -> int:
    """The set that holds this node alone."""
    return 1 << node


def nodes(mask: int) -> list[int]:
    """The nodes in a set."""
    return [n for n in NODES if mask >> n & 1]


def covers(mine: Vector, other: Vector) -> bool:
    """True if `mine` holds everything that `other` does."""
    return all(a >= b for a, b in zip(mine, other, strict=True))


def raised(vector: Vector, epoch: int, number: int) -> Vector:
    """The vector with at least `number` at this epoch."""
    if vector[epoch] >= number:
        return vector
    return (*vector[:epoch], number, *vector[epoch + 1 :])


def reach(world: World, a: int, b: int) -> bool:
    """True if the nodes a and b can talk to each other."""
    return world.alone == NOBODY or a == b or world.alone not in (a, b)


def holds(world: World, process: Process, node: int) -> bool:
    """True if the process has a living connection to that server, with its guard, and reaches it."""
    return bool(process.guards & bit(node)) and (process.at == NOBODY or reach(world, process.at, node))


def guarded(world: World) -> int:
    """The servers whose guard is held."""
    held = 0
    for process in world.processes:
        held |= process.guards
    return held


def busy(world: World, node: int) -> bool:
    """True if a health run of this node is under way: there is one at a time (`Node.alone`)."""
    return any(p.at == node and p.kind not in OUTSIDE for p in world.processes)


def change(world: World, node: int, **fields: object) -> World:
    """The world with one server changed."""
    servers = list(world.servers)
    servers[node] = servers[node]._replace(**fields)  # type: ignore[arg-type]
    return world._replace(servers=tuple(servers))


def begin(world: World, process: Process) -> World:
    """A new process."""
    return world._replace(processes=tuple(sorted((*world.processes, process))))


def end(world: World, process: Process) -> World:
    """The process ends, well or not; its connections go, and with them its guards."""
    return world._replace(processes=tuple(p for p in world.processes if p is not process))


def go(world: World, process: Process, **fields: object) -> World:
    """The process goes on to another step."""
    changed = process._replace(**fields)  # type: ignore[arg-type]
    if changed.step in LAST:
        changed = changed._replace(fresh=False)
    return begin(end(world, process), changed)
