"""`pre_start` of a fresh node that is up before Consul is (127.0.80)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import servers
from sandbox.packages import ROOT, Packages
from sandbox.processes import Process
from tests.integration.clusters import LONG, until

AGENT, SERVER = "127.0.80.1", "127.0.80.2"


@dataclass(frozen=True)
class PreStart:
    """A run that goes on, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path
    datadir: Path

    def waits(self, reason: str) -> bool:
        """True once it has said that it waits for Consul, for that reason; AssertionError if it has ended."""
        lines = self.log.read_text().splitlines()
        assert self.process.poll() is None, f"it ended with {self.process.poll()}: {lines}"
        return any("waiting for Consul" in line and reason in line for line in lines)


@pytest.fixture
def fresh(packages: Packages, server_directory: Path) -> Iterator[PreStart]:
    """Started with an empty data directory, while nothing answers at its agent's address."""
    datadir, run, log = (server_directory / name for name in ("data", "run", "pre_start.log"))
    conf_d = server_directory / "conf.d"
    conf_d.mkdir()
    options = [option.removeprefix("--") for option in servers.mysql_options(packages)]
    (conf_d / "server.cnf").write_text("\n".join(["[mysqld]", *options, ""]))
    environ = {
        "PATH": os.environ["PATH"],
        "CONSUL": SERVER,
        "CONSUL_AGENT": "1",
        "CONSUL_CLIENT_ADDRESS": AGENT,
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": AGENT,
        "MYSQL_DATADIR": str(datadir),
        "RUN_DIR": str(run),
        "MYSQL_CONF": str(server_directory / "my.cnf"),
        "MYSQL_CONF_DIR": str(conf_d),
        "MYSQL_BINDIR": str(packages.mysql_bindir),
        "MYSQLD_USER": servers.server_user(),
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(server_directory),
    }
    with open(log, "wb") as output:
        command = [str(packages.python), str(ROOT / "bin" / "manage.py"), "pre_start"]
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    yield PreStart(process, log, datadir)
    process.kill()
    process.wait()


def test_it_outlasts_a_consul_that_refuses_has_no_leader_or_hangs(
    packages: Packages, server_directory: Path, fresh: PreStart
) -> None:
    until(lambda: fresh.waits("connection refused"), LONG, "it does not wait for Consul")
    with contextlib.ExitStack() as stack:
        config = {
            "node_name": "node-1",
            "data_dir": str(server_directory / "agent" / "consul"),
            "retry_join": [SERVER],
            "retry_interval": "1s",
        }
        command = servers.consul_command(packages, server_directory / "agent", address=AGENT, config=config)
        agent = Process(command, log=server_directory / "agent.log")
        stack.callback(agent.stop)
        until(lambda: fresh.waits("No known Consul servers"), LONG, "it does not wait for a leader")
        agent.freeze()
        until(lambda: fresh.waits("did not answer in time"), LONG, "it does not wait for an answer")
        stack.enter_context(servers.consul_server(packages, server_directory / "server", address=SERVER))
        agent.thaw()
        assert fresh.process.wait(LONG) == 0, fresh.log.read_text()
    facts = json.loads((fresh.datadir / ".autopilot.json").read_text())
    assert (facts["origin"], facts["may_found"]) == ("initialised", True)
    assert (fresh.datadir / "mysql").is_dir()
