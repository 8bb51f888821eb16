"""A store that is down, slow, full, or refuses us, and what a cluster has of it: one line in the log (127.0.95).

While a fault is there, `health` and `status` say on every node what they said before, as fast as before, and nobody
changes a role. The snapshot that is due fails with one line that names the setting or the object. Once the fault is
over the next one succeeds, with nothing started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from manager.gtid import GtidSet
from manager.nodefile import BUILDING_FILE
from manager.settings import load
from manager.storage import open_store
from sandbox import disks, marked, servers
from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from sandbox.processes import states, stop_here
from tests.integration import manta_stores
from tests.integration.clusters import (
    LONG,
    Ran,
    converged,
    look,
    manage,
    roles,
    running,
    the_record,
    until,
    write,
)
from tests.integration.manta_server import MantaServer, manta
from tests.integration.wire import Line

DRIVERS = "tests.integration.stopping"
DISK_MB = 48

pytestmark = pytest.mark.timeout(300)


@dataclass
class Site:
    """A cluster of two, and three kinds of stores that tests can disturb."""

    cluster: Cluster
    server: MantaServer
    lines: dict[str, Line]
    full: servers.S3  # on a small disk
    directory: Path
    before: dict[str, Any] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def disk(self) -> Path:
        """The small disk of the second S3 server and of a directory for snapshots."""
        return self.directory / "disk"

    def env(self, node: Node, kind: str, changes: dict[str, str]) -> dict[str, str]:
        """What a node's hooks get whose store is of that kind."""
        env = {
            **node.env,
            "PYTHONPATH": str(ROOT),
            "BACKUP_DRIVER": f"{DRIVERS}:{kind.capitalize()}",
            "BACKUP_NAME": "mysql-backup-%Y-%m-%dT%H-%M-%S.%f",
            "STORAGE_DIR": str(self.disk / "store"),
            "AWS_ENDPOINT_URL": self.lines["s3"].url,
        }
        account = manta_stores.environment(self.server, MANTA_URL=self.lines["manta"].url)
        env |= {name: value for name, value in account.items() if name.startswith("MANTA_")}
        return env | changes

    def said(self, kind: str, changes: dict[str, str]) -> dict[str, Any]:
        """What `health` and `status` answer on each node; none of them took longer than before."""
        found: dict[str, Any] = {}
        for node in self.cluster.nodes:
            env = self.env(node, kind, changes)
            for words in (("health", "--as", "node"), ("status", "--json")):
                ran = manage(node.packages, env, *words)
                if not self.before:
                    self.slowest = max(self.slowest, ran.seconds)
                # The cores are shared with other tests: what waits for a store shows in the exit code as well.
                assert ran.seconds < self.slowest + 8.0, f"{words}: {ran}"
                found[f"{node.name}: {' '.join(words)}"] = (ran.code, ran.lines, shown(ran))
        return found

    def check_unchanged(self, kind: str, changes: dict[str, str]) -> None:
        """Each node answers as before; what the cores had no time for is asked again: a store's fault shows again."""
        if self.said(kind, changes) != self.before:
            assert self.said(kind, changes) == self.before

    def recorded(self) -> str:
        text = self.cluster.catalogue.key(f"{self.cluster.service_name}-last-backup")
        return str(json.loads(text)["id"]) if text else ""


def well(said: dict[str, Any]) -> dict[str, Any] | None:
    """What the nodes said, if all is well with them."""
    return said if all(code == 0 and not lines for code, lines, _ in said.values()) else None


def shown(ran: Ran) -> list[tuple[Any, ...]]:
    """What does not change by itself in what `status` prints."""
    if not ran.out.startswith("{"):
        return [(ran.out,)]
    names = ("node", "role", "healthy", "answers", "error", "open", "replication", "errant")
    return [tuple(node[name] for name in names) for node in json.loads(ran.out)["nodes"]]


@pytest.fixture(scope="module")
def site(packages: Packages, module_directory: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(manta(module_directory / "manta"))
        manta_stores.account(server)
        stack.callback(disks.unmount_below, module_directory)
        disks.mount(module_directory / "disk", DISK_MB)
        (module_directory / "disk" / "store").mkdir()
        small = servers.s3_server(packages, module_directory / "disk", address="127.0.95.5")
        full = stack.enter_context(small)
        env = {"SNAPSHOT_INTERVAL": "3600"}
        cluster = stack.enter_context(running(packages, "store-faults", "127.0.95", nodes=2, env=env))
        lines = {
            "s3": Line("127.0.95.3", cluster.s3_address),
            "manta": Line("127.0.95.4", "127.0.0.1", target_port=server.server_address[1]),
        }
        for line in lines.values():
            stack.callback(line.refuse)
        converged(cluster, 1)
        write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")
        write(cluster, "INSERT INTO kept VALUES (1), (2), (3)")
        site = Site(cluster, server, lines, full, module_directory)
        # The first object makes SeaweedFS lay out its files, which takes 5 s.
        for changes in ({}, on_the_small_disk(site)):
            open_store(load({**site.env(cluster.nodes[0], "s3", changes), "BACKUP_DRIVER": "s3"})).put_bytes(
                "a", b"a"
            )
        site.before = until(
            lambda: well(site.said("local", {})), LONG, "the nodes are not well before any fault"
        )
        yield site


@dataclass(frozen=True)
class Fault:
    """`kind` of store, and what goes wrong: settings that do not fit, or what `begin` does and `end` undoes.

    `line` is in the one line of the attempt, which ends with `code`.
    """

    kind: str
    line: str
    settings: Callable[[Site], dict[str, str]] = lambda _: {}
    begin: Callable[[Site], object] = lambda _: None
    end: Callable[[Site], object] = lambda _: None
    code: int = 1
    read: str = "1"  # seconds that a store is waited for


def rate(kind: str, *, sent: float = 1.0, answered: float = 1.0) -> Callable[[Site], None]:
    """Bytes a second; 0: as fast as it goes."""

    def slow(site: Site) -> None:
        site.lines[kind].rate, site.lines[kind].answer_rate = sent, answered

    return slow


def mend(kind: str) -> Callable[[Site], None]:
    return lambda site: site.lines[kind].mend()


def trouble(name: str, value: object) -> Callable[[Site], None]:
    return lambda site: setattr(site.server.trouble, name, value)


def another_key(_: Site) -> dict[str, str]:
    return {"MANTA_PRIVATE_KEY": manta_stores.text(manta_stores.private_key("rsa", 9)).replace("\n", "#")}


def on_the_small_disk(site: Site) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": site.full.endpoint,
        "AWS_ACCESS_KEY": site.full.access_key,
        "AWS_SECRET_ACCESS_KEY": site.full.secret_key,
    }


def fill(site: Site) -> None:
    disks.fill(site.disk)


def free(site: Site) -> None:
    disks.free(site.disk)


FAULTS = {
    "s3 down": Fault(
        "s3",
        "no S3 server answers at http://127.0.95.3:8333: connection refused; check AWS_ENDPOINT_URL",
        begin=lambda site: site.lines["s3"].refuse(),
        end=mend("s3"),
    ),
    "s3 cut off": Fault(
        "s3",
        "the connection to the S3 server failed (http://127.0.95.3:8333)",
        begin=lambda site: site.lines["s3"].cut(),
        end=mend("s3"),
    ),
    "s3 slow": Fault(
        "s3",
        "the S3 server does not answer in time (http://127.0.95.3:8333)",
        begin=rate("s3"),
        end=mend("s3"),
    ),
    "s3 trickles": Fault(
        "s3",
        "the S3 server does not answer in time (http://127.0.95.3:8333)",
        begin=rate("s3", sent=0.0),
        end=mend("s3"),
        read="2",  # a byte comes every second
    ),
    "s3 frozen": Fault(
        "s3",
        "the S3 server does not answer in time (http://127.0.95.3:8333)",
        begin=lambda site: site.lines["s3"].freeze(),
        end=mend("s3"),
    ),
    "s3 full": Fault("s3", "in AWS_BUCKET=backups failed", on_the_small_disk, fill, free),
    "s3 credentials": Fault(
        "s3", "AWS_SECRET_ACCESS_KEY is wrong", lambda _: {"AWS_SECRET_ACCESS_KEY": "another-secret"}
    ),
    "s3 bucket": Fault("s3", "AWS_BUCKET=none-such", lambda _: {"AWS_BUCKET": "none-such"}),
    "s3 clock": Fault("s3", "this machine's clock differs", lambda _: {"STORE_SKEW": "3600"}),
    "manta down": Fault(
        "manta",
        "no server answers at MANTA_URL=http://127.0.95.4:8333: connection refused",
        begin=lambda site: site.lines["manta"].refuse(),
        end=mend("manta"),
    ),
    "manta slow": Fault(
        "manta",
        "MANTA_URL=http://127.0.95.4:8333 does not answer in time",
        begin=rate("manta"),
        end=mend("manta"),
    ),
    "manta trickles": Fault(
        "manta",
        "MANTA_URL=http://127.0.95.4:8333 does not answer in time",
        begin=rate("manta", sent=0.0),
        end=mend("manta"),
        read="2",
    ),
    "manta busy": Fault(
        "manta",
        "MANTA_URL=http://127.0.95.4:8333 puts",
        begin=lambda site: [
            trouble("busy", ["GET"] * 9)(site),
            trouble("retry_after", "90")(site),
        ],
        end=trouble("busy", []),
    ),
    "manta full": Fault(
        "manta",
        "Manta has no room for mysql-backup-",
        begin=lambda site: setattr(site.server, "room", 1000),
        end=lambda site: setattr(site.server, "room", 1 << 40),
    ),
    "manta credentials": Fault("manta", "MANTA_USER=me has no such key as MANTA_PRIVATE_KEY", another_key),
    "manta bucket": Fault(
        "manta",
        "MANTA_BUCKET=/me/stor/none does not exist",
        lambda _: {"MANTA_BUCKET": "/me/stor/none"},
    ),
    "manta clock": Fault(
        "manta",
        "s apart, which Manta refuses",
        begin=trouble("clock", 3600.0),
        end=trouble("clock", 0.0),
    ),
    "local full": Fault("local", "No space left on device", begin=fill, end=free),
    "local missing": Fault(
        "local", "is no directory; create it, or mount it", lambda site: {"STORAGE_DIR": f"{site.disk}/none"}
    ),
    # What is built for every command would be built by `health` too.
    "no such driver": Fault(
        "s3",
        "BACKUP_DRIVER=no_such_driver:Class cannot be loaded",
        lambda _: {"BACKUP_DRIVER": "no_such_driver:Class"},
        code=2,
    ),
    "a driver that waits": Fault(
        "s3",
        f"BACKUP_DRIVER={DRIVERS}:Eager cannot be set up: ",
        lambda _: {"BACKUP_DRIVER": f"{DRIVERS}:Eager"},
        begin=lambda site: site.lines["s3"].freeze(),
        end=mend("s3"),
        code=2,
    ),
    "a driver that asks at once": Fault(
        "s3",
        f"BACKUP_DRIVER={DRIVERS}:Eager cannot be set up: URLError",
        lambda _: {"BACKUP_DRIVER": f"{DRIVERS}:Eager"},
        begin=lambda site: site.lines["s3"].refuse(),
        end=mend("s3"),
        code=2,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_store_that_fails_costs_a_line_and_no_health(site: Site, name: str) -> None:
    fault, cluster = FAULTS[name], site.cluster
    primary, _ = roles(cluster)
    epoch, last = the_record(cluster)["epoch"], site.recorded()
    primary.mysql("FLUSH BINARY LOGS")  # a snapshot is due
    changes = fault.settings(site)
    fault.begin(site)
    try:
        # Who waits for READ does so here as well, but not for a minute.
        with attempt(primary, site.env(primary, fault.kind, {"STORE_READ": fault.read, **changes})) as hook:
            site.check_unchanged(fault.kind, changes)
            said = hook.communicate(timeout=60.0)[0].decode()
    finally:
        fault.end(site)
    lines = [line for line in said.splitlines() if " INFO " not in line]
    assert (hook.returncode, len(lines)) == (fault.code, 1), said
    assert fault.line in lines[0]
    assert site.recorded() == last

    right = {} if name != "s3 full" else changes
    done = manage(primary.packages, site.env(primary, fault.kind, right), "snapshot_task")
    assert done.code == 0, done.lines
    assert site.recorded() != last, done.lines
    assert (the_record(cluster)["epoch"], roles(cluster)[0].name) == (epoch, primary.name)


@contextlib.contextmanager
def attempt(
    node: Node, env: dict[str, str], word: str = "snapshot_task"
) -> Iterator[subprocess.Popen[bytes]]:
    """The pilot's next snapshot_task, which goes on while the block looks at something else."""
    command = [str(node.packages.python), str(ROOT / "bin" / "manage.py"), word]
    hook = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield hook
    finally:
        hook.kill()
        hook.wait()


# --- Two nodes, one store ---------------------------------------------------------------------------


def test_two_nodes_that_share_a_scratch_directory_do_not_disturb_each_other(
    site: Site, tmp_path: Path
) -> None:
    primary, (replica,) = roles(site.cluster)
    scratch = {"SCRATCH_DIR": str(site.directory / "scratch")}
    stopped = site.env(primary, "local", {**scratch, "STOP_AT": "opened"})
    with attempt(primary, stopped, "snapshot") as hook:
        until(
            lambda: hook.poll() is not None or states(hook.pid) <= {"T", "t"}, LONG, "it does not stop", 0.01
        )
        done = manage(replica.packages, site.env(replica, "local", scratch), "snapshot")
        assert done.code == 1
        assert done.one_line().endswith(f"the snapshot lock is held by {primary.name}")
        own_lock = {**scratch, "BACKUP_LOCK_KEY": "another-lock", "LAST_BACKUP_KEY": "another-backup"}
        done = manage(replica.packages, site.env(replica, "local", own_lock), "snapshot")
        assert done.code == 0, done.lines
        before = site.recorded()
        hook.send_signal(signal.SIGCONT)
        said = hook.communicate(timeout=60.0)[0].decode()
    assert hook.returncode == 0, said
    assert site.recorded() != before
    env = site.env(primary, "local", {})
    done = manage(primary.packages, env, "restore", "--datadir", str(tmp_path / "restored"))
    assert done.code == 0, done.lines


# --- A restore on a disk that fills up --------------------------------------------------------------


def test_a_disk_that_fills_up_during_a_restore_starts_nothing(site: Site) -> None:
    """A new node by hand: as its pilot does it, with a small disk of its own."""
    cluster, (primary, _) = site.cluster, roles(site.cluster)
    done = manage(primary.packages, primary.env, "snapshot")
    assert done.code == 0, done.lines
    newest = json.loads(manage(primary.packages, primary.env, "snapshots", "--json").out)[0]
    place = site.directory / "small"
    node = Node(
        name="node-9",
        address="127.0.95.19",
        directory=place,
        packages=primary.packages,
        shared_env={**cluster.env, "CONSUL_AGENT": "no"},
        disk_mb=newest["unpacked_bytes"] // 10**6 + 60,
    )
    node._prepare()
    datadir = node.disk / "data"
    with started(node) as pilot:
        until(lambda: size(datadir) > 20_000_000, LONG, lambda: f"nothing is restored: {node.logs()}", 0.001)
        (hook,) = (pid for pid in marked.processes(place) if marked.command_line(pid)[-1:] == ["pre_start"])
        stop_here(hook)
        assert size(datadir) < newest["unpacked_bytes"] - 5_000_000, "it is restored already"
        disks.fill(node.disk)
        os.kill(hook, signal.SIGCONT)
        assert pilot.wait(60.0) == 1
    said = [line for line in node.logs().splitlines() if " INFO " not in line]
    assert len(said) == 1, said
    assert f"snapshot {newest['id']} cannot be restored: cannot write {datadir}" in said[0]
    assert "No space left on device" in said[0]
    assert (datadir / BUILDING_FILE).exists()
    assert not marked.processes(place), "something was started"

    # It begins again, and says why it cannot be, as long as there is no room.
    again = manage(node.packages, node.env, "pre_start")
    assert again.code == 1
    assert (datadir / BUILDING_FILE).exists()
    disks.free(node.disk)
    with started(node):
        until(lambda: look(node), LONG, lambda: f"mysqld is not started: {node.logs()}")
        assert not (datadir / BUILDING_FILE).exists()
        assert json.loads((datadir / ".autopilot.json").read_text())["snapshot"] == newest["id"]
        executed = look(node)
        assert executed is not None
        assert GtidSet.parse(newest["gtid"]) <= executed.executed
        (row,) = node.mysql("SELECT COUNT(*) AS n FROM app.kept")
        assert row["n"] == 3
    assert "this data directory is half-made: beginning again" in node.logs()


@contextlib.contextmanager
def started(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """The pilot's program for mysqld: pre_start, and then the server in its place."""
    command = [str(node.packages.python), str(ROOT / "bin" / "pilot.py"), "mysqld"]
    with open(node.log, "ab") as output:
        env = {**node.env, marked.MARKER: str(node.directory)}
        pilot = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        yield pilot
    finally:
        marked.kill(node.directory)
        pilot.wait()


def size(directory: Path) -> int:
    """Bytes in a directory and below it, of files that come and go."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(Path(parent, name)).st_size
    return total
