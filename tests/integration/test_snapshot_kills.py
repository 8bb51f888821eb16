"""A snapshot whose hook, engine, store or network dies at any point of its life (127.0.94).

`make test` runs a few points of each kind; `make snapshot-kills` all kinds on all stores, POINTS=10 points each.

Whatever died, and wherever: Consul names no snapshot that is not complete, each manifest in the store has its whole
object, the lock is free at once, or after its session's TTL if the hook itself was killed, the next run succeeds, and
after it nothing is left in the server, in SCRATCH_DIR and in the store. What may be left is one object without a
manifest, if the fault came when the object was complete or about to be: retention removes it a day later.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from manager.discovery.client import SESSION_TTL
from manager.settings import load
from manager.snapshot.catalogue import find
from manager.snapshot.naming import MANIFEST_SUFFIX
from manager.storage import Store, open_store
from manager.storage.local import INCOMING
from manager.storage.s3 import S3Store
from sandbox import marked, servers
from sandbox.cluster import BUCKET, Cluster
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from sandbox.processes import states, stop_here
from tests.integration import manta_stores
from tests.integration.clusters import (
    LONG,
    consul,
    converged,
    look,
    manage,
    never,
    running,
    server_pid,
    until,
    write,
)
from tests.integration.consul_nodes import request
from tests.integration.manta_server import MantaServer, manta
from tests.integration.stopping import POINTS
from tests.integration.wire import Line

MEGABYTES = 36
"""Of rows that cannot be compressed: several parts of an object in S3, and two points in the middle of them."""

SHORT: dict[tuple[str, str], Sequence[str]] = {
    ("local", "hook"): POINTS,
    ("local", "engine"): ("copying", "10000000", "object"),
    ("s3", "store"): ("sent",),
    ("manta", "store"): ("10000000", "object"),
    ("s3", "network"): ("10000000", "sent"),
    ("manta", "network"): ("30000000",),
}
KINDS = {"local": ("hook", "engine"), "s3": ("hook", "engine", "store", "network")}
KINDS["manta"] = KINDS["s3"]
COUNT = int(os.environ.get("SNAPSHOT_KILLS", "0"))
SERIES = SHORT
if COUNT:
    every = tuple(POINTS[number * len(POINTS) // COUNT % len(POINTS)] for number in range(COUNT))
    if len(POINTS) < COUNT:
        every = tuple(POINTS[number % len(POINTS)] for number in range(COUNT))
    SERIES = {(store, kind): every for store, kinds in KINDS.items() for kind in kinds}

LATE = ("30000000", "sent", "object", "manifest")
"""The points after which an object may stay without a manifest: the rest of it may be on its way already."""

pytestmark = pytest.mark.timeout(1800 if COUNT else 300)


@dataclass
class Site:
    """One node with some rows, and stores behind lines that can be cut."""

    cluster: Cluster
    node: Node
    server: MantaServer
    lines: dict[str, Line]
    directory: Path
    worlds: int = 0

    def world(self, store: str, point: str, number: int) -> World:
        """A new one."""
        self.worlds += 1
        return World(self, store, point, number, f"w{self.worlds}")


@pytest.fixture(scope="module")
def site(packages: Packages, module_directory: Path) -> Iterator[Site]:
    # No pilot takes one, and no world needs the others' keys.
    with (
        running(packages, "kills", "127.0.94", nodes=1, env={"SNAPSHOT_INTERVAL": "3600"}) as cluster,
        manta(module_directory / "manta") as server,
    ):
        manta_stores.account(server)
        converged(cluster, 0)
        write(cluster, "CREATE TABLE random (n INT AUTO_INCREMENT PRIMARY KEY, content LONGBLOB)")
        for _ in range(MEGABYTES):
            write(cluster, "INSERT INTO random (content) VALUES (%s)", os.urandom(1_000_000))
        port = server.server_address[1]
        lines = {
            "s3": Line("127.0.94.3", cluster.s3_address),
            "manta": Line("127.0.94.4", "127.0.0.1", target_port=port),
        }
        (module_directory / "store").mkdir()
        yield Site(cluster, cluster.nodes[0], server, lines, module_directory)
        for line in lines.values():
            line.refuse()


class World:
    """A run that is disturbed and the one after it, with names, keys and a scratch directory of their own."""

    def __init__(self, site: Site, store: str, point: str, number: int, name: str) -> None:
        self.site, self.store, self.point, self.number, self.name = site, store, point, number, name
        self.scratch = site.directory / "scratch" / name
        self.hook: subprocess.Popen[bytes] | None = None
        self.log = site.directory / f"{name}.log"

    def __str__(self) -> str:
        said = self.log.read_text() if self.log.exists() else ""
        return f"{self.name}, {self.store}, at {self.point}: {said}"

    def env(self, **changes: str) -> dict[str, str]:
        env = {
            **self.site.node.env,
            "PYTHONPATH": str(ROOT),
            "SCRATCH_DIR": str(self.scratch),
            "BACKUP_DRIVER": self.store,
            "BACKUP_NAME": f"{self.name}-backup-%Y-%m-%dT%H-%M-%S.%f",
            "BACKUP_LOCK_KEY": f"{self.name}-backup-running",
            "LAST_BACKUP_KEY": f"{self.name}-last-backup",
            "LAST_BINLOG_KEY": f"{self.name}-last-binlog",
            "SNAPSHOT_KEEP": "2",
            "STORAGE_DIR": str(self.site.directory / "store"),
            "AWS_ENDPOINT_URL": self.site.lines["s3"].url,
        }
        account = manta_stores.environment(self.site.server, MANTA_URL=self.site.lines["manta"].url)
        env |= {name: value for name, value in account.items() if name.startswith("MANTA_")}
        return env | changes

    @property
    def opened(self) -> Store:
        """The store, as the built-in driver sees it."""
        return open_store(load(self.env()))

    # --- The run that is disturbed ----------------------------------------------------------------

    def begin(self, **changes: str) -> None:
        """Start the hook, and return when it has stopped at the point."""
        self.scratch.mkdir(parents=True)
        os.chmod(self.site.directory / "scratch", 0o755)
        driver = f"tests.integration.stopping:{self.store.capitalize()}"
        env = self.env(BACKUP_DRIVER=driver, STOP_AT=self.point, **changes)
        command = [str(self.site.node.packages.python), str(ROOT / "bin" / "manage.py"), "snapshot"]
        with open(self.log, "wb") as output:
            self.hook = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        if self.point == "copying":
            copy = self.scratch / f".snapshot-{self.site.node.name}" / "copy"
            until(copy.exists, LONG, lambda: f"nothing is copied: {self}", 0.001)
            stop_here(self.hook.pid)
        until(self._stopped, LONG, lambda: f"it does not come there: {self}", 0.005)
        assert self.hook.poll() is None, f"it is over: {self}"

    def _stopped(self) -> bool:
        assert self.hook is not None
        return self.hook.poll() is not None or states(self.hook.pid) <= {"T", "t"}

    def kill(self) -> None:
        assert self.hook is not None
        self.hook.kill()
        self.hook.wait()

    def end(self) -> None:
        """Let the hook go on after what has happened: it ends, with success or one line, and without its lock."""
        assert self.hook is not None
        self.hook.send_signal(signal.SIGCONT)
        code = self.hook.wait(LONG)
        said = self.log.read_text()
        errors = [line for line in said.splitlines() if " ERROR " in line]
        assert "Traceback" not in said, str(self)
        assert (code, len(errors)) == ((0, 0) if self.recorded() else (1, 1)), str(self)
        assert not self.locked(), f"the lock is left: {self}"

    # --- What there is then -----------------------------------------------------------------------

    def recorded(self) -> str | None:
        """The id of the snapshot that Consul names."""
        text = self.site.cluster.catalogue.key(f"{self.name}-last-backup")
        return str(json.loads(text)["id"]) if text else None

    def locked(self) -> bool:
        found = consul(self.site.cluster, f"kv/{self.name}-backup-running")
        return bool(found and found[0].get("Session"))

    def check(self) -> list[str]:
        """Every snapshot that anybody could use is whole; returns the objects without a manifest."""
        store, whole = self.opened, set()
        names = [each.name for each in store.list(self.name + "-")]
        for snapshot in (n.removesuffix(MANIFEST_SUFFIX) for n in names if n.endswith(MANIFEST_SUFFIX)):
            manifest, digest = find(store, snapshot), hashlib.sha256()
            for chunk in store.get_stream(snapshot):
                digest.update(chunk)
            assert digest.hexdigest() == manifest.sha256, f"{snapshot} is not whole: {self}"
            assert manifest.size < manifest.unpacked * 2 // 3, f"{snapshot} is not compressed: {manifest}"
            whole.add(snapshot)
        assert self.recorded() in {None, *whole}, f"Consul names {self.recorded()}, there is {names}: {self}"
        return [name for name in names if not name.endswith(MANIFEST_SUFFIX) and name not in whole]

    def next_run(self) -> None:
        """The pilot's next run, when one is due: it succeeds, and what the first has left is gone."""
        before = self.recorded()
        self.site.node.mysql("FLUSH BINARY LOGS")
        done = manage(self.site.node.packages, self.env(), "snapshot_task")
        assert done.code == 0, f"{done.lines} after {self}"
        assert self.recorded() not in (None, before), f"{done.lines} after {self}"
        orphans = self.check()
        assert len(orphans) <= (self.point in LATE), f"{orphans} are left by {self}"
        assert not self.locked(), str(self)
        assert not self.scratch.exists() or not list(self.scratch.iterdir()), f"left in SCRATCH_DIR by {self}"
        assert not self.unfinished(), f"left in the store by {self}"
        assert not self.clones(), str(self)

    def unfinished(self) -> list[str]:
        """What is in the store and cannot be listed."""
        store = self.opened
        if isinstance(store, S3Store):
            uploads = store._client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
            return [each["Key"] for each in uploads if each["Key"].startswith(f"{self.name}-")]
        if self.store == "local":
            incoming = self.site.directory / "store" / INCOMING
            return [path.name for path in incoming.glob(f"{self.name}-*")]
        more = self.site.server.files() - len(self.site.server.objects())
        return [f"{more} files of no object"] if more else []

    def clones(self) -> list[int]:
        rows = self.site.node.mysql("SHOW FULL PROCESSLIST")
        return [row["Id"] for row in rows if str(row["Info"] or "").startswith("CLONE")]


# --- What happens at the point, and what is done about it before the next run ----------------------


def kill_hook(world: World) -> None:
    """Like the machine, or the kernel without memory. The server goes on with its CLONE for a while."""
    world.kill()
    until(lambda: not world.clones(), LONG, "a CLONE does not end", 0.02)


def kill_engine(world: World) -> None:
    """The engine is in the server: what the hook has asked of it is killed, or every other time the server.

    An engine that is a process of its own is killed here instead.
    """
    assert world.hook is not None
    node = world.site.node
    if world.number % 2 == 0:
        rows = node.mysql(
            "SELECT PROCESSLIST_ID AS id FROM performance_schema.session_connect_attrs"
            " WHERE ATTR_NAME = '_pid' AND ATTR_VALUE = %s",
            (str(world.hook.pid),),
        )
        assert rows or world.point == "tidying", "the hook has no connection"
        for row in rows:
            node.mysql(f"KILL {row['id']}")
        world.end()
        return
    killed = server_pid(node)
    os.kill(killed, signal.SIGKILL)
    world.end()
    until(lambda: serves(world.site, killed), LONG, "the server does not come back")


def serves(site: Site, killed: int) -> bool:
    server = look(site.node)
    return server is not None and server.open and server_pid(site.node) != killed


def kill_store(world: World) -> None:
    """SIGKILL for SeaweedFS; the tests' Manta is in this process, and its death is that of its port."""
    site = world.site
    if world.store == "manta":
        site.lines["manta"].refuse()
        world.end()
        site.lines["manta"].mend()
        return
    marked.kill(site.cluster.directory / "s3")
    world.end()
    site.cluster.start_s3()
    ready = (site.cluster.s3_address, (BUCKET,))
    until(lambda: servers.s3_ready(*ready), LONG, "the store does not come back")
    until(lambda: answers(world), LONG, "the store does not answer again")


def answers(world: World) -> bool:
    try:
        world.opened.list("")
    except Exception:
        return False
    return True


def cut_network(world: World) -> None:
    """Between two bytes of what is sent, every other time a network that says nothing any more."""
    line = world.site.lines[world.store]
    if world.number % 2 == 0:
        line.cut(after=700_000)
    else:
        line.freeze()
    world.end()
    line.mend()


FAULTS: dict[str, Callable[[World], None]] = {
    "hook": kill_hook,
    "engine": kill_engine,
    "store": kill_store,
    "network": cut_network,
}


@pytest.mark.parametrize(("store", "kind"), SERIES)
def test_whatever_is_killed(site: Site, store: str, kind: str) -> None:
    worlds = [site.world(store, point, number) for number, point in enumerate(SERIES[store, kind])]
    for world in worlds:
        # A frozen network is waited for as long as READ; the rule is the same with 1 s.
        world.begin(**({"STORE_READ": "1"} if kind == "network" else {}))
        FAULTS[kind](world)
        world.check()
        if kind != "hook":
            world.next_run()
    if kind == "hook":
        assert worlds[-1].locked(), "a killed hook has given its lock back: the test kills nothing"
        # Consul ends a session after its TTL, 10 s, and before twice that.
        limit = 25.0
        for world in worlds:
            until(lambda one=world: not one.locked(), limit, f"a dead hook has left its lock: {world}")
            world.next_run()


# --- What a run is to another one, and to what happens meanwhile -----------------------------------


def test_a_run_that_has_nothing_to_do_leaves_no_lock(site: Site) -> None:
    """Whether there is something to do is asked again under the lock."""
    world = site.world("local", "none", 0)
    for _ in range(2):
        done = manage(site.node.packages, world.env(NODE_NAME="stranger"), "snapshot")
        assert done.code == 1
        assert "no snapshot: this node is neither the primary nor a healthy replica" in done.one_line()
        assert not world.locked()


def test_two_runs_of_one_node_are_kept_apart(site: Site) -> None:
    """By a file: the lock in Consul is another one here."""
    first, second = (site.world("local", "opened", 0) for _ in range(2))
    first.begin()
    done = manage(site.node.packages, second.env(), "snapshot")
    assert done.code == 1
    assert "another snapshot of this node is running" in done.one_line()
    assert not second.locked()
    first.end()
    assert first.recorded()
    second.next_run()


def test_a_run_that_has_lost_its_lock_ends(site: Site) -> None:
    """Its machine was stopped for a while: another run may have begun, and it leaves nothing."""
    world = site.world("local", "opened", 0)
    world.begin()
    address = site.cluster.consul_address
    (key,) = request(address, "GET", f"kv/{world.name}-backup-running")
    request(address, "PUT", f"session/destroy/{key['Session']}")
    time.sleep(SESSION_TTL + 1.0)  # it was not stopped for a moment only
    world.end()
    assert "the snapshot lock is lost" in world.log.read_text()
    assert world.opened.list(f"{world.name}-") == []
    world.next_run()


def test_the_binlog_of_before_the_copy_is_what_counts(site: Site) -> None:
    """What is written during the copy may be in no snapshot: so one is due again."""
    world = site.world("local", "opened", 0)
    (before,) = site.node.mysql("SHOW BINARY LOG STATUS")
    world.begin()
    site.node.mysql("FLUSH BINARY LOGS")
    world.end()
    first = world.recorded()
    assert site.cluster.catalogue.key(f"{world.name}-last-binlog") == before["File"].encode()
    done = manage(site.node.packages, world.env(), "snapshot_task")
    assert done.code == 0, done.lines
    assert world.recorded() not in (None, first)
    last = world.recorded()
    assert manage(site.node.packages, world.env(), "snapshot_task").code == 0
    assert world.recorded() == last, "nothing was due"


def test_one_that_takes_longer_than_its_interval_is_neither_killed_nor_doubled(site: Site) -> None:
    """The pilot's loop, with a store that does not answer for five intervals."""
    world, line = site.world("manta", "none", 0), site.lines["manta"]
    command = [str(site.node.packages.python), str(ROOT / "bin" / "pilot.py"), "snapshots"]
    env = {**world.env(SNAPSHOT_INTERVAL="1"), marked.MARKER: str(site.directory / world.name)}
    line.freeze()
    with open(world.log, "wb") as output:
        loop = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        until(world.locked, LONG, "no snapshot is begun")
        begun = tasks(site, world)
        never(lambda: tasks(site, world) != begun, 5.0, "it is another run")
        line.mend()
        until(world.recorded, LONG, lambda: f"it is not completed: {world}")
        assert world.log.read_text().count("taking a snapshot") == 1, str(world)
    finally:
        line.mend()
        loop.kill()
        loop.wait()
        marked.kill(site.directory / world.name)


def tasks(site: Site, world: World) -> set[int]:
    """The processes that take a snapshot for the pilot's loop."""
    found = marked.processes(site.directory / world.name)
    return {pid for pid in found if marked.command_line(pid)[-1:] == ["snapshot_task"]}
