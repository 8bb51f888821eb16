"""Nodes in network namespaces: ordinary addresses, real partitions, and nothing left (subnet 198.18.207)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox import disks
from sandbox.cluster import Cluster, SandboxError
from sandbox.network import Network
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.documents import the_block
from tests.integration.clusters import running

SUBNET = "198.18.207"
A, B = f"{SUBNET}.11", f"{SUBNET}.12"
ROOT = os.getuid() == 0
RECEIVE = """
import socket, sys
s = socket.socket(2, 2)
s.bind((sys.argv[1], 5000))
while print(flush=True) is None:
    s.recv(9)
"""
SEND = "import socket, sys; s = socket.socket(2, 2); s.sendto(b'x', (sys.argv[1], int(sys.argv[2])))"


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts, a and b."""
    made = Network(SUBNET)
    made.create()
    try:
        made.add("a", A)
        made.add("b", B)
        yield made
    finally:
        made.destroy()


class Receiver:
    """A UDP socket on a host of the network, and how many packets came."""

    def __init__(self, network: Network, host: str, address: str) -> None:
        self.address = address
        command = [*network.enter(host), sys.executable, "-c", RECEIVE, address]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.count = -1
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        assert wait_for(lambda: self.count == 0, 30.0)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            self.count += 1

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join()

    def gets(self, network: Network, sender: str | None) -> bool:
        """True if a packet from `sender` (None: this host) arrives; a few are sent."""
        before = self.count
        enter = network.enter(sender) if sender else ()
        for _ in range(3):
            subprocess.run(
                [*enter, sys.executable, "-c", SEND, self.address, "5000"], check=False, capture_output=True
            )
        return wait_for(lambda: self.count > before, 1.0)


if ROOT:

    def test_a_partition_drops_what_it_names_and_heals(network: Network) -> None:
        at_b, at_a = Receiver(network, "b", B), Receiver(network, "a", A)
        try:
            assert at_b.gets(network, "a")
            assert at_b.gets(network, None)
            network.drop("b", incoming=[A])
            assert not at_b.gets(network, "a")
            assert at_a.gets(network, "b")
            assert at_b.gets(network, None)
            network.drop("b", outgoing=[A])
            assert not at_a.gets(network, "b")
            network.heal("b", B)
            assert at_b.gets(network, "a")
            assert at_a.gets(network, "b")
            network.unplug("b", B)
            assert not at_b.gets(network, "a")
            assert not at_b.gets(network, None)
            network.heal("b", B)
            assert wait_for(lambda: at_b.gets(network, "a"), 30.0)
        finally:
            at_a.end()
            at_b.end()

    def test_the_documented_ways_to_cut_a_node_off(network: Network) -> None:
        """Its lines one by one: between them it shows what each does."""
        block = the_block(__file__, "test_the_documented_ways_to_cut_a_node_off")
        hosts = [SimpleNamespace(name=name, address=address) for name, address in (("a", A), ("b", B))]
        space = {"cluster": SimpleNamespace(network=network, nodes=hosts)}
        at_a = Receiver(network, "a", A)
        try:
            reached = []
            for line in block.lines:
                exec(line, space)
                if "heal" in line:  # after a while the switch forwards again
                    assert wait_for(lambda: at_a.gets(network, "b"), 30.0)
                reached.append((at_a.gets(network, "b"), at_a.gets(network, None)))
            assert reached == [(True, True), (False, True), (False, False), (True, True)]
        finally:
            at_a.end()

    def test_what_a_crashed_run_left_is_removed_and_what_runs_is_not(network: Network) -> None:
        again = Network(SUBNET)
        again.create()
        again.add("a", A)
        sleeper = subprocess.Popen([*again.enter("a"), "sleep", "600"])
        try:
            pids = ["ip", "netns", "pids", f"autopilot-{SUBNET}-a"]
            assert wait_for(
                lambda: (
                    str(sleeper.pid) in subprocess.run(pids, capture_output=True, text=True).stdout.split()
                ),
                30.0,
            )
            with pytest.raises(SandboxError, match="in use"):
                Network(SUBNET).create()
        finally:
            sleeper.kill()
            sleeper.wait()
        again.destroy()
        assert not list(Path("/run/netns").glob(f"autopilot-{SUBNET}-*"))
        assert "autopilot12cf" not in links()

    def test_a_cluster_in_namespaces_is_reached_from_here_and_leaves_nothing(packages: Packages) -> None:
        with running(packages, "namespaces", SUBNET, nodes=1, namespaces=True, disk_mb=1024) as cluster:
            primary = cluster.wait_primary(150.0)
            assert primary.address == A
            socket.create_connection((A, 3306), timeout=10).close()
            assert f"mysql-node-1  primary  {A}:3306" in cluster.status()
            node = cluster.nodes[0]
            assert node.disk.is_mount()
            disks.fill(node.disk)
            space = os.statvfs(node.disk)
            assert space.f_bavail == 0
            disks.free(node.disk)
            # As a crash of the sandbox would: nothing but the directory says what there is.
            Cluster(cluster.directory, packages=packages).down()
            assert not cluster.directory.exists()
            assert str(cluster.directory) not in Path("/proc/mounts").read_text()
            assert not list(Path("/run/netns").glob(f"autopilot-{SUBNET}-*"))
            assert "autopilot12cf" not in links()

else:

    def test_namespaces_need_root(packages: Packages) -> None:
        with (
            pytest.raises(SandboxError, match="need root"),
            running(packages, "namespaces", SUBNET, nodes=1, namespaces=True),
        ):
            pass


@pytest.mark.parametrize("subnet", ["127.0.33", "198.18", "198.17.1", "nonsense"])
def test_other_addresses_are_refused(subnet: str) -> None:
    with pytest.raises(SandboxError, match=r"198\.18|first three bytes"):
        Network(subnet)
