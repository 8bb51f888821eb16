"""Our cluster, as the benchmark sees it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from faults.world import World, is_server
from sandbox import disks, marked
from sandbox.cluster import DATABASE, Cluster
from sandbox.health import Endpoint
from sandbox.node import SandboxError
from sandbox.packages import Packages
from sandbox.processes import wait_for

START = 240.0


class Ours:
    """A cluster of `nodes` in namespaces; its settings are the sandbox's defaults, and `env`."""

    database = DATABASE

    def __init__(
        self,
        packages: Packages,
        directory: Path,
        subnet: str,
        *,
        nodes: int = 3,
        env: dict[str, str] | None = None,
        disk_mb: int | None = None,
    ) -> None:
        self.cluster = Cluster(
            directory, packages=packages, subnet=subnet, env=env or {}, namespaces=True, disk_mb=disk_mb
        )
        self.finder = self.cluster.catalogue
        self.user, self.password = "app", self.cluster.secrets["MYSQL_PASSWORD"]
        self._world = World(self.cluster, lambda text: None)
        self._nodes = nodes

    def up(self) -> None:
        """Start it, and wait until it is complete."""
        Cluster(self.cluster.directory, packages=self.cluster.packages).down()
        self.cluster.up(self._nodes)
        # A node that has just been started shows a moment later, and must not be started again.
        wait_for(lambda: all(node.running for node in self.cluster.nodes), 10.0)
        self.settle()

    def down(self) -> None:
        """End everything and remove it."""
        self.cluster.down()

    def settle(self) -> None:
        """Start what is down, and wait until all nodes are back; SandboxError after 4 min."""
        for node in self.cluster.nodes:
            if not node.running:
                node.start()
        if not wait_for(lambda: not self._world.unsettled(), START, 0.2):
            raise SandboxError(f"the cluster does not converge: {self._world.unsettled()}")

    def primary(self) -> Endpoint:
        """The healthy primary; SandboxError if there is none for a minute."""
        return self.cluster.wait_primary(60.0)

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Do one of the benchmark's faults to the primary, and undo it at the end."""
        node, network = self.cluster.node(self.primary().node), self.cluster.network
        assert network is not None
        stopping = threading.Thread(target=node.stop)
        if kind == "mysqld_killed":
            marked.send(node.directory, signal.SIGKILL, is_server)
        elif kind == "node_killed":
            node.kill()
        elif kind == "frozen":
            node.freeze()
        elif kind == "partitioned":
            everybody = [one.address for one in self.cluster.nodes if one.name != node.name]
            everybody += [self.cluster.consul_address, self.cluster.s3_address, network.here]
            network.drop(node.name, incoming=everybody, outgoing=everybody)
        elif kind == "clean_stop":
            stopping.start()
        elif kind in ("replica_killed", "replicas_killed"):
            replicas = [one for one in self.cluster.nodes if one.name != node.name]
            for one in replicas[: 1 if kind == "replica_killed" else None]:
                one.kill()
        elif kind == "all_killed":
            for one in self.cluster.nodes:
                one.kill()
            for one in self.cluster.nodes:
                one.start()
        elif kind == "disk_full":
            disks.fill(node.disk)
        elif kind == "switchover":
            done = self.cluster.manage("switchover")
            if done.returncode:
                raise SandboxError(f"switchover: {done.stderr.strip()}")
        try:
            yield
        finally:
            disks.free(node.disk)
            node.thaw()
            network.heal(node.name, node.address)
            if kind == "clean_stop":
                stopping.join()
