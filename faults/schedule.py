"""What happens to the cluster, and in which order: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

# Kind: who it happens to (with which weight), and how many seconds it lasts, from and to.
PRIMARY = {"primary": 1}
MOSTLY_PRIMARY = {"primary": 3, "replica": 1}
ANYBODY = {"primary": 1, "replica": 1}


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    targets: dict[str, int]
    seconds: tuple[float, float]
    needs_root: bool = False


KINDS: dict[str, Kind] = {
    "mysqld-kill": Kind(MOSTLY_PRIMARY, (0.0, 2.0)),
    "mysqld-freeze": Kind(MOSTLY_PRIMARY, (1.0, 20.0)),
    "node-kill": Kind(MOSTLY_PRIMARY, (0.5, 15.0)),
    "node-freeze": Kind(MOSTLY_PRIMARY, (1.0, 20.0)),
    "node-stop": Kind(MOSTLY_PRIMARY, (0.0, 5.0)),
    "agent-freeze": Kind(MOSTLY_PRIMARY, (2.0, 25.0)),
    "pilot-freeze": Kind(MOSTLY_PRIMARY, (2.0, 25.0)),
    "hooks-kill": Kind(ANYBODY, (2.0, 8.0)),
    "hook-stop": Kind(ANYBODY, (0.5, 3.0)),
    "partition-one": Kind(MOSTLY_PRIMARY, (1.0, 20.0), needs_root=True),
    "partition-consul": Kind(PRIMARY, (2.0, 25.0), needs_root=True),
    "partition-replicas": Kind(PRIMARY, (1.0, 20.0), needs_root=True),
    "partition-halves": Kind(PRIMARY, (1.0, 20.0), needs_root=True),
    "partition-oneway": Kind(MOSTLY_PRIMARY, (1.0, 20.0), needs_root=True),
    "consul-kill": Kind(PRIMARY, (0.5, 15.0)),
    "consul-freeze": Kind(PRIMARY, (1.0, 20.0)),
    "consul-empty": Kind(PRIMARY, (0.0, 5.0)),
    "consul-restore": Kind(PRIMARY, (0.0, 3.0)),
    "disk-full": Kind(MOSTLY_PRIMARY, (3.0, 20.0), needs_root=True),
    "connections": Kind(PRIMARY, (2.0, 10.0)),
    "switchover": Kind(PRIMARY, (0.0, 1.0)),
}
PAUSE = (0.5, 3.0)
DICE = 4


@dataclass(frozen=True)
class Planned:
    """One fault as the seed has it. `dice` are numbers from 0 to 1, for what this kind of fault leaves open."""

    number: int
    kind: str
    target: str
    pause: float
    seconds: float
    dice: tuple[float, ...]


def selected(words: Sequence[str], *, root: bool) -> dict[str, float | None]:
    """Return the kinds that are asked for by name or by the beginning of it, all if there is no word.

    `name:15` makes them last 15 seconds, which is the value; None leaves it to the seed. Left out is what only
    root can do. ValueError names a word that chooses nothing.
    """
    found: dict[str, float | None] = {}
    for word in words or [""]:
        name, colon, text = word.partition(":")
        matching = [kind for kind in KINDS if kind == name] or [
            kind for kind in KINDS if kind.startswith(name)
        ]
        if not matching:
            raise ValueError(f"FAULTS: {name!r} is none of {', '.join(KINDS)}")
        try:
            seconds = float(text) if colon else None
        except ValueError:
            raise ValueError(f"FAULTS: {word!r}: after the colon comes a number of seconds") from None
        found.update(dict.fromkeys(matching, seconds))
    possible = {kind: seconds for kind, seconds in found.items() if root or not KINDS[kind].needs_root}
    if not possible:
        raise ValueError("FAULTS: none of these can be done here (partitions and full disks need root)")
    return possible


def schedule(
    seed: int, kinds: Mapping[str, float | None], *, at_once: int = 1
) -> Iterator[tuple[Planned, ...]]:
    """Yield groups of `at_once` faults without end; the same seed and kinds give the same ones.

    Every kind comes once before any comes again, in an order of its own each time. What `kinds` has for a kind
    is how many seconds it lasts, unless that is None.
    """
    dice = random.Random(f"{seed} {at_once} {' '.join(kinds)}")
    number = 0
    bag: list[str] = []
    while True:
        group: list[Planned] = []
        while len(group) < at_once:
            if not bag:
                bag = list(kinds)
                dice.shuffle(bag)
            number += 1
            planned = _planned(dice, number, bag.pop())
            fixed = kinds[planned.kind]
            group.append(planned if fixed is None else replace(planned, seconds=fixed))
        yield tuple(group)


def _planned(dice: random.Random, number: int, name: str) -> Planned:
    kind = KINDS[name]
    target = dice.choices(list(kind.targets), list(kind.targets.values()))[0]
    shortest, longest = kind.seconds
    # The square gives more short faults than long ones: it is the flapping that finds the races.
    seconds = shortest + (longest - shortest) * dice.random() ** 2
    return Planned(
        number=number,
        kind=name,
        target=target,
        pause=round(dice.uniform(*PAUSE), 2),
        seconds=round(seconds, 2),
        dice=tuple(int(1000 * dice.random()) / 1000 for _ in range(DICE)),
    )
