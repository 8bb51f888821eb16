"""Who is cut off from whom, as packets that each host drops; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Hosts:
    """The addresses that partitions are about; `target` is one of `nodes`, `here` is where the clients are."""

    target: str
    nodes: tuple[str, ...]
    consul: str
    s3: str
    here: str

    @property
    def others(self) -> tuple[str, ...]:
        """The nodes besides the target."""
        return tuple(node for node in self.nodes if node != self.target)


@dataclass(frozen=True)
class Drops:
    """What one host drops: what comes from some addresses, what goes to some."""

    incoming: tuple[str, ...] = ()
    outgoing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """What each host drops, by address, and which hosts have no link at all; with words for the log."""

    text: str
    drops: Mapping[str, Drops]
    unplugged: tuple[str, ...] = ()


def partition(kind: str, hosts: Hosts, dice: Sequence[float]) -> Partition:
    """Return one partition of that kind; `dice` decides what the kind leaves open."""
    if kind == "partition-one":
        return _one(hosts, dice)
    if kind == "partition-consul":
        return Partition("from Consul", {hosts.target: _both((hosts.consul,))})
    if kind == "partition-replicas":
        return Partition("from the other nodes", {hosts.target: _both(hosts.others)})
    if kind == "partition-halves":
        return _halves(hosts, dice[0])
    if kind == "partition-oneway":
        return _one_way(hosts, dice)
    raise ValueError(f"{kind} is no partition")


def _both(addresses: tuple[str, ...]) -> Drops:
    return Drops(incoming=addresses, outgoing=addresses)


def _one(hosts: Hosts, dice: Sequence[float]) -> Partition:
    """One node from the others; half of the times its clients still reach it, which is the harder case."""
    if dice[0] < 0.25:
        return Partition("from everybody, its link down", {}, (hosts.target,))
    rest = (*hosts.others, hosts.consul, hosts.s3)
    if dice[0] < 0.5:
        return Partition("from everybody", {hosts.target: _both((*rest, hosts.here))})
    return Partition("from everybody but its clients", {hosts.target: _both(rest)})


def _halves(hosts: Hosts, die: float) -> Partition:
    """The nodes and Consul in two groups; the target's side is any that leaves a node on the other."""
    movable = (*hosts.others, hosts.consul)
    sides = [
        side
        for side in product((True, False), repeat=len(movable))
        if not all(with_target for with_target in side[:-1])
    ]
    side = sides[int(die * len(sides))]
    near = (hosts.target, *(host for host, with_target in zip(movable, side, strict=True) if with_target))
    far = tuple(host for host in movable if host not in near)
    # The store is where Consul is.
    far_all = (*far, hosts.s3) if hosts.consul in far else far
    near_all = (*near, hosts.s3) if hosts.consul in near else near
    drops = {host: _both(far_all) for host in near if host != hosts.consul}
    drops |= {host: _both(near_all) for host in far if host != hosts.consul}
    return Partition(f"{', '.join(near)} from {', '.join(far)}", drops)


def _one_way(hosts: Hosts, dice: Sequence[float]) -> Partition:
    name, whom = [
        ("the other nodes", hosts.others),
        ("Consul", (hosts.consul,)),
        ("all of them", (*hosts.others, hosts.consul, hosts.s3)),
    ][int(dice[0] * 3)]
    if dice[1] < 0.5:
        return Partition(f"hears nothing from {name}", {hosts.target: Drops(incoming=whom)})
    return Partition(f"is not heard by {name}", {hosts.target: Drops(outgoing=whom)})
