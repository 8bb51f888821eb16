"""A real self-operating cluster on one host: Consul, S3 and nodes, each with an address and a directory.

Their addresses are loopback ones or, as root and in network namespaces, those of ordinary hosts.
The cluster's state is on disk, so a second process (sandbox/ctl) can act on a running cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox import disks, marked, mysqls, rpladmin, servers
from sandbox.health import Catalogue, Endpoint
from sandbox.network import Network
from sandbox.node import Node, SandboxError
from sandbox.packages import ROOT, Packages, ensure
from sandbox.processes import answers, wait_for

__all__ = ["BUCKET", "DATABASE", "Cluster", "SandboxError", "default_directory"]

BUCKET = "backups"
STATE_FILE = "cluster.json"
LOOPBACK = "127.0.33"
NAMESPACES = "198.18.33"
DATABASE = "app"
PILOTS = ("consul", "containerpilot")
DRIVER = ROOT / "tests" / "containerpilot" / "containerpilot"


def default_directory() -> Path:
    """Return $AUTOPILOT_SANDBOX, or this user's own directory under /tmp, which mysqld can reach as well."""
    return Path(os.environ.get("AUTOPILOT_SANDBOX", f"/tmp/autopilot-sandbox-{os.getuid()}")).absolute()


class Cluster:
    """Nodes on `subnet`.11, .12, ... with Consul on .1 and S3 on .2."""

    def __init__(
        self,
        directory: Path,
        *,
        service_name: str = "mysql",
        subnet: str | None = None,
        env: Mapping[str, str] | None = None,
        beside: Cluster | None = None,
        packages: Packages | None = None,
        namespaces: bool = False,
        disk_mb: int | None = None,
        code: Path = ROOT,
        pilot: str | None = None,
    ) -> None:
        """`env` is added to every node's environment; `beside` lends its Consul and S3 servers.

        With `namespaces` (root only) every node, Consul and S3 is a host of its own, on a subnet out of
        198.18.0.0/15. With `disk_mb` (root only) each node's data is on a small disk of its own. `code` is the
        tree whose hooks the nodes run. `pilot` is `consul` or `containerpilot`, by default what $PILOT says; the
        program is $CONTAINERPILOT, or the tests' driver, which does what ContainerPilot does.
        """
        if namespaces and beside:
            raise SandboxError("a cluster in namespaces has Consul and S3 servers of its own")
        self.directory = directory
        self.packages = packages or mysqls.chosen()
        self._chosen: dict[str, Packages] = {}
        subnet = subnet or (NAMESPACES if namespaces else os.environ.get("AUTOPILOT_SUBNET") or LOOPBACK)
        self._state: dict[str, Any] = {
            "service_name": service_name,
            "subnet": subnet,
            "namespaces": namespaces,
            "disk_mb": disk_mb,
            "code": str(code),
            "servers": beside.servers if beside else subnet,
            "env": dict(env or {}),
            "secrets": beside.secrets if beside else _new_secrets(),
            "pilot": pilot or os.environ.get("PILOT") or "consul",
            "pilots": {},
            "containerpilot": os.environ.get("CONTAINERPILOT") or str(DRIVER),
            "mysql": self.packages.server,
            "mysqls": {},
            "nodes": [],
        }
        if self._state["pilot"] not in PILOTS:
            raise SandboxError(f"PILOT: must be {' or '.join(PILOTS)}, not {self._state['pilot']!r}")

    @classmethod
    def open(cls, directory: Path) -> Cluster:
        """Return the cluster that was made in `directory`; SandboxError if there is none."""
        try:
            cluster = cls(directory, packages=ensure())
            cluster._state = cluster._saved()
            cluster.packages = mysqls.chosen(cluster._state.get("mysql"))
        except FileNotFoundError:
            raise SandboxError(f"there is no cluster in {directory}") from None
        return cluster

    # --- What it is made of ---------------------------------------------------------------------

    @property
    def service_name(self) -> str:
        """The cluster's SERVICE_NAME."""
        return str(self._state["service_name"])

    @property
    def servers(self) -> str:
        """The subnet on which Consul and S3 are."""
        return str(self._state["servers"])

    @property
    def network(self) -> Network | None:
        """The network of a cluster in namespaces; None where it is on loopback."""
        return Network(self._state["subnet"]) if self._state.get("namespaces") else None

    @property
    def secrets(self) -> dict[str, str]:
        """The generated passwords and keys, by the name of their variable."""
        return dict(self._state["secrets"])

    @property
    def consul_address(self) -> str:
        """Where the Consul server is."""
        return f"{self.servers}.1"

    @property
    def s3_address(self) -> str:
        """Where the S3 server is."""
        return f"{self.servers}.2"

    @property
    def s3_endpoint(self) -> str:
        """The S3 server's URL."""
        return f"http://{self.s3_address}:8333"

    @property
    def catalogue(self) -> Catalogue:
        """What Consul knows of this cluster."""
        return Catalogue(self.consul_address, self.service_name)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, running or not, in the order in which they were added."""
        return [self.node(name) for name in self._state["nodes"]]

    def node(self, name: str) -> Node:
        """The node of that name; SandboxError if there is none."""
        if name not in self._state["nodes"]:
            raise SandboxError(
                f"there is no node {name!r}; there are {', '.join(self._state['nodes']) or 'none'}"
            )
        address = f"{self._state['subnet']}.{10 + int(name.removeprefix('node-'))}"
        packages = self._packages_of(name)
        return Node(
            name=name,
            address=address,
            directory=self.directory / name,
            packages=packages,
            shared_env=self._env(packages),
            enter=self._enter(name),
            disk_mb=self._state.get("disk_mb"),
            code=Path(self._state["code"]),
            containerpilot=self._containerpilot(name),
        )

    def _packages_of(self, name: str) -> Packages:
        """What a node runs, where that is another server than the cluster's; looked up once."""
        server = self._state.get("mysqls", {}).get(name)
        if server is None:
            return self.packages
        if server not in self._chosen:
            self._chosen[server] = mysqls.chosen(server)
        return self._chosen[server]

    def _containerpilot(self, name: str) -> Path | None:
        """The program that runs a node's hooks, where its pilot is ContainerPilot."""
        pilot = self._state["pilots"].get(name, self._state["pilot"])
        return Path(self._state["containerpilot"]).absolute() if pilot == "containerpilot" else None

    @property
    def env(self) -> dict[str, str]:
        """The environment that all nodes of the cluster's own server share."""
        return self._env(self.packages)

    def _env(self, packages: Packages) -> dict[str, str]:
        path = [packages.venv_bin, packages.consul.parent, packages.mysql_bindir]
        if self._state["env"].get("FAILOVER_ENGINE") == rpladmin.NAME:
            path.append(rpladmin.tools())
        return {
            "PATH": ":".join(
                [*map(str, path), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
            ),
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "SERVICE_NAME": self.service_name,
            "CONSUL": self.consul_address,
            "LOG_LEVEL": "INFO",
            "MYSQL_USER": "app",
            "MYSQL_DATABASE": DATABASE,
            "MYSQL_REPL_USER": "repl",
            "MYSQL_BINDIR": str(packages.mysql_bindir),
            "MYSQL_INITDB_DIR": str(self.directory / "initdb.d"),
            "MYSQLD_USER": servers.server_user(),
            "INNODB_BUFFER_POOL_SIZE": "64M",
            "BACKUP_DRIVER": "s3",
            "AWS_BUCKET": BUCKET,
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            **self.secrets,
            **self._state["env"],
        }

    # --- Acting ---------------------------------------------------------------------------------

    def up(self, nodes: int = 3) -> list[Node]:
        """Start the servers and that many nodes at once, and return the nodes without waiting for them."""
        if (self.directory / STATE_FILE).exists():
            raise SandboxError(
                f"there is a cluster in {self.directory} already; `sandbox/ctl down` removes it"
            )
        own_servers = self.servers == self._state["subnet"]
        if own_servers and self.network is None and answers(self.consul_address, 8500):
            raise SandboxError(f"{self.consul_address}:8500 is in use already; choose another subnet")
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.directory.stat().st_uid != os.getuid():
            raise SandboxError(f"{self.directory} belongs to another user; set AUTOPILOT_SANDBOX")
        self.directory.chmod(0o755)
        self._save()
        if self.network is not None:
            self.network.create()
            self.network.add("consul", self.consul_address)
            self.network.add("s3", self.s3_address)
        if own_servers:
            self.start_consul()
            self.start_s3()
            self._wait_for_servers()
        return [self.add_node() for _ in range(nodes)]

    def start_consul(self) -> None:
        """Start the Consul server; it finds its data again after a kill."""
        directory = self.directory / "consul"
        config = {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": "consul",
            "data_dir": str(directory / "data"),
        }
        command = servers.consul_command(self.packages, directory, address=self.consul_address, config=config)
        command = [*self._enter("consul"), *command]
        marked.start_marked(directory, command, env=os.environ, log=directory / "consul.log")

    def start_s3(self) -> None:
        """Start the S3 server; it finds its data again after a kill."""
        directory = self.directory / "s3"
        keys = (self.secrets["AWS_ACCESS_KEY"], self.secrets["AWS_SECRET_ACCESS_KEY"])
        command = servers.s3_command(self.packages, directory, self.s3_address, (BUCKET,), *keys)
        command = [*self._enter("s3"), *command]
        marked.start_marked(directory, command, env=os.environ, log=directory / "s3.log")

    def _enter(self, host: str) -> tuple[str, ...]:
        return self.network.enter(host) if self.network is not None else ()

    def _wait_for_servers(self) -> None:
        if not wait_for(lambda: servers.consul_ready(self.consul_address), 60.0):
            raise SandboxError(f"Consul did not start; see {self.directory / 'consul' / 'consul.log'}")
        if not wait_for(lambda: servers.s3_ready(self.s3_address, (BUCKET,)), 60.0):
            raise SandboxError(f"the S3 server did not start; see {self.directory / 's3' / 's3.log'}")

    def add_node(self, *, pilot: str | None = None, server: str | None = None) -> Node:
        """Add the next node and start it; does not wait for it.

        `pilot` and `server` (of `mysqls.chosen`): others than the cluster's.
        """
        self._state["last"] = self._state.get("last", 0) + 1
        name = f"node-{self._state['last']}"
        self._state["nodes"].append(name)
        if pilot is not None:
            self._state["pilots"][name] = pilot
        if server is not None:
            self._state["mysqls"][name] = server
        self._save()
        node = self.node(name)
        if self.network is not None:
            self.network.add(name, node.address)
        node.start()
        return node

    def change_server(self, name: str, server: str) -> Node:
        """Let a node that is down start with another MySQL server from now on, on its old data; returns the node."""
        if self.node(name).running:
            raise SandboxError(f"{name} is running")
        self._state["mysqls"][name] = server
        self._save()
        return self.node(name)

    def remove_node(self, name: str) -> None:
        """Stop a node, take it out of Consul and delete its directory."""
        node = self.node(name)
        node.stop()
        self.catalogue.force_leave(f"{self.service_name}-{name}")
        disks.unmount_below(node.directory)
        if self.network is not None:
            self.network.remove(name)
        shutil.rmtree(node.directory)
        self._state["nodes"].remove(name)
        self._save()

    def status(self, *options: str) -> str:
        """Return what `manage.py status` prints; SandboxError with its error line if it prints nothing."""
        done = self.manage("status", *options)
        if not done.stdout:
            raise SandboxError((done.stderr.strip().splitlines() or ["manage.py status failed"])[-1])
        return done.stdout

    def manage(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run manage.py as somebody who is no node; subprocess.TimeoutExpired after `seconds`."""
        here = self.network.here if self.network is not None else "127.0.0.1"
        env = {**self.env, "NODE_NAME": "client", "NODE_ADDRESS": here, "CONSUL_AGENT": "no"}
        env["RUN_DIR"] = str(self.directory / "client")
        command = [str(self.packages.python), str(ROOT / "bin" / "manage.py"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds, check=False)

    def wait_primary(self, seconds: float, *, other_than: str | None = None) -> Endpoint:
        """Return the healthy primary once there is one; SandboxError if there is none in time."""

        def found() -> bool:
            primary = self.catalogue.primary
            return primary is not None and primary.node != other_than

        if not wait_for(found, seconds, 0.1) or (primary := self.catalogue.primary) is None:
            raise SandboxError(
                f"no healthy primary within {seconds:.0f} s; see {self.directory}/node-*/node.log"
            )
        return primary

    def down(self) -> None:
        """End every process of the cluster and remove its directory; fine if there is nothing."""
        marked.kill(self.directory)
        disks.unmount_below(self.directory)
        if (self.directory / STATE_FILE).exists():
            saved = self._saved()
            if saved["servers"] == saved["subnet"]:
                servers.remove_s3_sockets(f"{saved['servers']}.2")
            if saved.get("namespaces"):
                Network(saved["subnet"]).destroy()
            for entry in self.directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.directory.rmdir()

    def _saved(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.directory / STATE_FILE).read_text())
        return state

    def _save(self) -> None:
        file = self.directory / STATE_FILE
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(json.dumps(self._state, indent=2))
        new.replace(file)


def _new_secrets() -> dict[str, str]:
    names = ("MYSQL_PASSWORD", "MYSQL_REPL_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    return {**{name: secrets.token_urlsafe(18) for name in names}, "AWS_ACCESS_KEY": "sandbox"}
