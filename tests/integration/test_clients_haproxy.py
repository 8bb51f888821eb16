"""A client behind HAProxy, with the configuration of docs/clients, survives failover and switchover (127.0.78)."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.health import Endpoint
from sandbox.packages import Packages, program
from sandbox.processes import Process, answers, wait_for
from sandbox.writer import Writer
from tests.commands import wrapper
from tests.documents import ROOT, replaced, the_block
from tests.integration.clusters import LONG, converged, goes_on, roles, running, server_pid, until, writer

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]

ADDRESS = "127.0.78.5"
SWITCHOVER_GAP = 5.0
FAILOVER_GAP = 30.0
"""Seconds, on a machine that is busy with other tests."""


class Behind:
    """Whoever connects to HAProxy, and to nothing else."""

    primary = Endpoint("haproxy", ADDRESS, 3306)


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "haproxy", "127.0.78", nodes=3) as made:
        yield made


@pytest.fixture(scope="module")
def haproxy(cluster: Cluster, module_directory: Path) -> Iterator[Process]:
    here = [
        ("CONSUL_DNS=127.0.0.1", f"CONSUL_DNS={cluster.consul_address}"),
        ("LISTEN=0.0.0.0", f"LISTEN={ADDRESS}"),
    ]
    command = shlex.split(replaced(the_block(__file__, "haproxy").text, here))
    programs = module_directory / "programs"
    wrapper(programs, "haproxy", program("haproxy", "usr/sbin/haproxy"))
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    process = Process(["env", f"--chdir={ROOT}", *command], log=module_directory / "haproxy.log", env=environ)
    assert wait_for(lambda: answers(ADDRESS, 3306), 10.0), (module_directory / "haproxy.log").read_text()
    yield process
    process.kill()


@pytest.fixture
def client(cluster: Cluster, haproxy: Process) -> Iterator[Writer]:
    converged(cluster, 2)
    made = Writer(
        Behind(), user="app", password=cluster.secrets["MYSQL_PASSWORD"], database=DATABASE, pause=0.02
    )
    writer(cluster)  # its table
    made.start()
    until(lambda: len(made.history.acknowledged) > 20, LONG, "the writer does not get going")
    yield made
    made.stop()
    converged(cluster, 2)
    present = made.read(Behind.primary)
    assert made.history.missing(present) == set()


def test_a_switchover(cluster: Cluster, client: Writer) -> None:
    begin = time.monotonic()
    done = cluster.manage("switchover")
    assert done.returncode == 0, done.stderr
    goes_on(client)
    gap = client.history.gap(begin) or 0.0
    print(f"write gap behind HAProxy, switchover: {gap:.2f} s")
    assert gap < SWITCHOVER_GAP


def test_a_killed_mysqld(cluster: Cluster, client: Writer) -> None:
    os.kill(server_pid(roles(cluster)[0]), signal.SIGKILL)
    gap = goes_on(client)
    print(f"write gap behind HAProxy, mysqld killed: {gap:.2f} s")
    assert gap < FAILOVER_GAP


def test_a_frozen_node(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    primary.freeze()
    gap = goes_on(client)
    print(f"write gap behind HAProxy, node frozen: {gap:.2f} s")
    assert gap < FAILOVER_GAP
    primary.thaw()


def test_readers_reach_a_replica(cluster: Cluster, haproxy: Process) -> None:
    converged(cluster, 2)
    assert wait_for(lambda: answers(ADDRESS, 3307), 10.0)
    reader = Writer(Behind(), user="app", password=cluster.secrets["MYSQL_PASSWORD"], database=DATABASE)
    present = reader.read(Endpoint("haproxy", ADDRESS, 3307))
    assert present == reader.read(Behind.primary)
