"""Going through all states breadth first: every order of steps, within the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model import canonical, consul, membership, mysql, opening, replica, runner
from tests.model.faults import demotions, faults
from tests.model.promises import broken
from tests.model.world import EPOCHS, NOBODY, Left, Process, Record, Rules, Server, World, bit, busy

STEPS = {**membership.STEPS, **opening.STEPS, **replica.STEPS, **runner.STEPS}
PROCESSES = 2


class Found(NamedTuple):
    """The outcome. `complete`: there are no further states. `trace` leads to the state where `broken` is true."""

    states: int
    steps: int
    complete: bool
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.states} states, {self.steps} steps: {self.broken or 'nothing broken'}"]
        return "\n".join([*lines, *(f"{number:4} {text}" for number, text in enumerate(self.trace, 1))])


def members(mask: int, left: Left) -> World:
    """Node 0 is the open primary of epoch 0, both others are attached, those of `mask` are members.

    Without members it is alone: semi-sync is off.
    """
    none = (0,) * EPOCHS
    servers = [Server(none, none, open=True, opened=0, waits=bool(mask), unlocked=0b110)]
    for n in (1, 2):
        on = bool(mask & bit(n))
        servers.append(
            Server(none, none, variable=on, source=0, receiving=True, acknowledges=on, connected=True)
        )
    return World(tuple(servers), Record(0, 0, mask), 0, (), (), none, none, NOBODY, left)


def promoted(left: Left) -> World:
    """Node 1 was promoted and opened, both others are attached, and the runner is about to admit node 2."""
    world = members(0, left)
    none = (0,) * EPOCHS
    other = Server(none, none, source=1, receiving=True, connected=True)
    chosen = Server(none, none, open=True, opened=1, waits=True, unlocked=0b101)
    run = Process("runner", NOBODY, "first: touch", guards=0b110, primary=1, node=2, epoch=1)
    return world._replace(servers=(other, chosen, other), record=Record(1, 1, 0), lock=1, processes=(run,))


def successors(world: World, rules: Rules, processes: int = PROCESSES) -> Iterator[tuple[str, World]]:
    """Every next state, with what happens. `processes`: so many hooks may be at work at once."""
    for process in world.processes:
        where = "a" if process.at == NOBODY else f"{process.at}: the"
        for after in STEPS[process.step](world, process, rules):
            yield f"{where} {process.kind}: {process.step}", after
    if len(world.processes) < processes:
        yield from membership.begins(world, rules)
        yield from opening.begins(world, rules)
        yield from replica.begins(world, rules)
        yield from runner.begins(world, rules)
    if not busy(world, world.record.primary):
        yield from consul.retake(world)
    yield from consul.late(world)
    yield from mysql.write(world)
    yield from mysql.receive(world)
    yield from mysql.reconnect(world)
    yield from demotions(world)
    yield from faults(world)


def explore(world: World, rules: Rules, *, processes: int = PROCESSES, most: int = 1_000_000) -> Found:
    """Go through all states that can be reached, `most` at most, until a promise is broken."""
    world = canonical.cleared(mysql.settle(world))
    came: dict[int, tuple[int, str]] = {canonical.key(world): (0, "")}
    seen: set[int] = set()
    level, steps = [world], 0
    while level and len(came) < most:
        following: list[World] = []
        for here in level:
            origin = canonical.key(here)
            for text, after in successors(here, rules, processes):
                steps += 1
                raw = hash(after)
                if raw in seen:
                    continue
                seen.add(raw)
                after = canonical.cleared(mysql.settle(after))
                key = canonical.key(after)
                if key in came:
                    continue
                came[key] = (origin, text)
                fault = broken(after)
                if fault:
                    return Found(len(came), steps, False, fault, _trace(came, key))
                following.append(after)
        level = following
    return Found(len(came), steps, not level)


def _trace(came: dict[int, tuple[int, str]], key: int) -> tuple[str, ...]:
    texts: list[str] = []
    while came[key][1]:
        key, text = came[key]
        texts.append(text)
    return tuple(reversed(texts))
