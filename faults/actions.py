"""Doing the faults: each is a context that begins the fault when it is entered, and heals it when it is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pymysql

from faults.partitions import Hosts, partition
from faults.schedule import Planned
from faults.world import Hook, World, is_agent, is_pilot, is_server
from sandbox import disks, marked
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node, SandboxError
from sandbox.processes import wait_for

Context = contextlib.AbstractContextManager[None]
CONNECTIONS = 400
HOOK_WAIT = 20.0
SWITCHOVER_TIME = 60.0


def fault(world: World, planned: Planned) -> Context:
    """Return the context of a planned fault."""
    if planned.kind.startswith("partition-"):
        return _partition(world, planned)
    return _FAULTS[planned.kind](world, planned)


def _target(world: World, planned: Planned) -> Node:
    node = world.target(planned.target, planned.dice[-1])
    world.say(f"  {planned.kind}: {node.name} ({planned.target}), {planned.seconds} s")
    return node


# --- Processes ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _mysqld_kill(world: World, planned: Planned) -> Iterator[None]:
    """supervisord starts it again."""
    marked.send(_target(world, planned).directory, signal.SIGKILL, is_server)
    yield


def _freeze(only: Callable[[int], bool]) -> Callable[[World, Planned], Context]:
    @contextlib.contextmanager
    def frozen(world: World, planned: Planned) -> Iterator[None]:
        node = _target(world, planned)
        marked.freeze(node.directory, only)
        try:
            yield
        finally:
            node.thaw()

    return frozen


@contextlib.contextmanager
def _node_kill(world: World, planned: Planned) -> Iterator[None]:
    node = _target(world, planned)
    node.kill()
    try:
        yield
    finally:
        _start(node)


@contextlib.contextmanager
def _node_stop(world: World, planned: Planned) -> Iterator[None]:
    """A clean stop, as `docker stop` does it."""
    node = _target(world, planned)
    node.stop()
    try:
        yield
    finally:
        _start(node)


def _start(node: Node) -> None:
    """Start a node; with two faults at once another may have started it."""
    if not node.running:
        node.start()


# --- Hooks --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hooks_kill(world: World, planned: Planned) -> Iterator[None]:
    """SIGKILL for hooks at work: those of a failover, or those of a change of the members."""
    node = _target(world, planned)
    marked.send(node.directory, signal.SIGKILL, is_server)
    end = time.monotonic() + planned.seconds
    killed = 0
    while time.monotonic() < end:
        time.sleep(0.05 + 0.6 * planned.dice[killed % len(planned.dice)])
        for hook in _at_work(world, planned):
            with contextlib.suppress(ProcessLookupError):
                os.kill(hook.pid, signal.SIGKILL)
                killed += 1
    world.say(f"    {killed} hooks killed")
    yield


@contextlib.contextmanager
def _hook_stop(world: World, planned: Planned) -> Iterator[None]:
    """A hook is stopped in the middle of its work, another does the work, then the first one goes on."""
    node = _target(world, planned)
    if planned.dice[0] < 0.5:
        marked.send(node.directory, signal.SIGKILL, is_server)
    else:
        node.kill()
    stopped = None
    try:
        stopped = _stop_one(world, planned)
        before = world.record()
        if stopped is not None and wait_for(lambda: _moved(world, before), HOOK_WAIT, 0.1):
            world.say("    another one has done the work; the stopped one goes on")
        yield
    finally:
        if stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped.pid, signal.SIGCONT)
        _start(node)


def _stop_one(world: World, planned: Planned) -> Hook | None:
    """Wait for a hook at work, and some moments more, and stop it; None if there was none to be stopped."""
    end = time.monotonic() + HOOK_WAIT
    while time.monotonic() < end:
        for hook in _at_work(world, planned):
            time.sleep(1.5 * planned.dice[1] ** 2)
            with contextlib.suppress(ProcessLookupError):
                os.kill(hook.pid, signal.SIGSTOP)
                world.say(
                    f"    {hook.command} of {hook.node} stopped, {time.monotonic() - hook.began:.2f} s old"
                )
                return hook
        time.sleep(0.02)
    world.say("    no hook was caught at work")
    return None


def _at_work(world: World, planned: Planned) -> list[Hook]:
    """What acts on the fault: the runners of a failover, or the health of the primary."""
    if planned.target == "primary":
        return [hook for node in world.cluster.nodes for hook in world.hooks(node, "on_change")]
    return world.hooks(world.primary(), "health")


def _moved(world: World, before: dict[str, object]) -> bool:
    """True once the record names other members, or another epoch."""
    now = world.record()
    return bool(now) and any(now.get(name) != before.get(name) for name in ("epoch", "members"))


# --- Network ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _partition(world: World, planned: Planned) -> Iterator[None]:
    network, cluster = world.cluster.network, world.cluster
    if network is None:
        raise SandboxError("partitions need a cluster in namespaces")
    node = _target(world, planned)
    names = {one.address: one.name for one in cluster.nodes}
    hosts = Hosts(
        target=node.address,
        nodes=tuple(names),
        consul=cluster.consul_address,
        s3=cluster.s3_address,
        here=network.here,
    )
    cut = partition(planned.kind, hosts, planned.dice)
    world.say(f"    {cut.text}")
    try:
        for address, drops in cut.drops.items():
            network.drop(names[address], incoming=drops.incoming, outgoing=drops.outgoing)
        for address in cut.unplugged:
            network.unplug(names[address], address)
        yield
    finally:
        for address in {*cut.drops, *cut.unplugged}:
            network.heal(names[address], address)


# --- Consul -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _consul_kill(world: World, planned: Planned) -> Iterator[None]:
    world.say(f"  consul-kill: {planned.seconds} s")
    marked.kill(world.consul_directory)
    try:
        yield
    finally:
        _start_consul(world)


@contextlib.contextmanager
def _consul_freeze(world: World, planned: Planned) -> Iterator[None]:
    world.say(f"  consul-freeze: {planned.seconds} s")
    marked.freeze(world.consul_directory)
    try:
        yield
    finally:
        marked.thaw(world.consul_directory)


@contextlib.contextmanager
def _consul_empty(world: World, planned: Planned) -> Iterator[None]:
    world.say(f"  consul-empty: killed, its data deleted, started after {planned.seconds} s")
    marked.kill(world.consul_directory)
    shutil.rmtree(world.consul_directory / "data")
    try:
        yield
    finally:
        _start_consul(world)


def _start_consul(world: World) -> None:
    if not marked.processes(world.consul_directory):
        world.cluster.start_consul()


@contextlib.contextmanager
def _consul_restore(world: World, planned: Planned) -> Iterator[None]:
    """An older state comes back: records, dead sessions and the locks that they held."""
    if world.snapshots:
        file = world.snapshots[int(planned.dice[0] * len(world.snapshots))]
        age = time.monotonic() - float(file.name.removeprefix("consul-").removesuffix(".snapshot"))
        done = world.consul("snapshot", "restore", str(file))
        world.say(f"  consul-restore: the state of {age:.0f} s ago{'' if done else ' (failed)'}")
    yield


# --- What runs out ------------------------------------------------------------------------------


@contextlib.contextmanager
def _disk_full(world: World, planned: Planned) -> Iterator[None]:
    node = _target(world, planned)
    disks.fill(node.disk)
    try:
        yield
    finally:
        disks.free(node.disk)


@contextlib.contextmanager
def _connections(world: World, planned: Planned) -> Iterator[None]:
    """The application opens connections until the server refuses one, and keeps them."""
    with connections_taken(world.cluster, _target(world, planned)) as number:
        world.say(f"    {number} connections taken")
        yield


@contextlib.contextmanager
def connections_taken(cluster: Cluster, node: Node) -> Iterator[int]:
    """Take all connections that the application can get from a node's server, until the block ends."""
    taken = []
    try:
        with contextlib.suppress(pymysql.MySQLError):
            for _ in range(CONNECTIONS):
                taken.append(
                    pymysql.connect(
                        host=node.address,
                        user=cluster.env["MYSQL_USER"],
                        password=cluster.secrets["MYSQL_PASSWORD"],
                        database=DATABASE,
                        connect_timeout=2,
                        read_timeout=2,
                        ssl_disabled=True,
                    )
                )
        yield len(taken)
    finally:
        for one in taken:
            with contextlib.suppress(pymysql.MySQLError):
                one.close()


@contextlib.contextmanager
def _switchover(world: World, planned: Planned) -> Iterator[None]:
    others = world.others()
    to = ["--to", others[int(planned.dice[0] * len(others))].name] if others and planned.dice[1] < 0.5 else []
    try:
        done = world.cluster.manage("switchover", *to, seconds=SWITCHOVER_TIME)
        world.say(f"  switchover {' '.join(to)}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    except subprocess.TimeoutExpired:
        world.say(f"  switchover {' '.join(to)}: not done after {SWITCHOVER_TIME:.0f} s")
    yield


_FAULTS: dict[str, Callable[[World, Planned], Context]] = {
    "mysqld-kill": _mysqld_kill,
    "mysqld-freeze": _freeze(is_server),
    "node-kill": _node_kill,
    "node-freeze": _freeze(marked.everything),
    "node-stop": _node_stop,
    "agent-freeze": _freeze(is_agent),
    "pilot-freeze": _freeze(is_pilot),
    "hooks-kill": _hooks_kill,
    "hook-stop": _hook_stop,
    "consul-kill": _consul_kill,
    "consul-freeze": _consul_freeze,
    "consul-empty": _consul_empty,
    "consul-restore": _consul_restore,
    "disk-full": _disk_full,
    "connections": _connections,
    "switchover": _switchover,
}
