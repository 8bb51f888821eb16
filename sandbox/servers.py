"""Plain single servers for tests: mysqld, Consul and S3, each on an address of its own.

Every function is a context manager that yields a running server and ends it. All of 127.0.0.0/8 exists
without configuration, so servers on different addresses keep their usual ports.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import mysqls
from sandbox.packages import DEFAULT_MYSQL, Packages
from sandbox.processes import Process, ServerFailed, answers

GOSSIP = {
    "probe_interval": "500ms",
    "probe_timeout": "250ms",
    "suspicion_mult": 2,
    "gossip_interval": "100ms",
}


def server_user() -> str:
    """Return the OS user that runs mysqld: ourselves, or where we are root, $MYSQLD_USER or nobody."""
    if os.getuid() == 0:
        return os.environ.get("MYSQLD_USER", "nobody")
    return pwd.getpwuid(os.getuid()).pw_name


# --- MySQL --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mysql:
    """A running mysqld; root@localhost has no password over the socket."""

    process: Process
    address: str
    port: int
    datadir: Path
    socket: Path


def mysql_options(packages: Packages) -> list[str]:
    """The options that tell mysqld where its own files are in the cache."""
    options = [
        f"--basedir={packages.mysql}",
        f"--lc-messages-dir={packages.mysql_messages}",
        f"--character-sets-dir={packages.mysql_messages / 'charsets'}",
        f"--plugin-dir={packages.mysql_plugins}",
    ]
    # 5.6.24 takes NULL for a directory, and does not start.
    return [*options, "--secure-file-priv=NULL"] if mysqls.version(packages) >= (5, 7, 0) else options


def small_redo_log(packages: Packages) -> str:
    """The option that keeps the redo log at 8 MB."""
    newer = mysqls.version(packages) >= (8, 0, 30)
    return "--innodb-redo-log-capacity=8M" if newer else "--innodb-log-file-size=4M"


def initialised_datadir(packages: Packages, datadir: Path) -> None:
    """Fill `datadir`, which must not exist, with a copy of a database that has never run.

    The original is made once and kept in the cache. Each copy gets a server_uuid of its own at its start.
    """
    which = "" if packages.server == DEFAULT_MYSQL else packages.server.strip("/").replace("/", "-") + "-"
    template = packages.cache / f"datadir-{which}{os.getuid()}"
    with open(packages.cache / ".datadir-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            new = template.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            _own(new)
            _initialise(packages, new)
            new.rename(template)
    datadir.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(datadir)], check=True)


def _initialise(packages: Packages, datadir: Path) -> None:
    """Fill an empty directory; ServerFailed with mysqld's last words if it cannot."""
    command = [str(packages.mysql_bindir / "mysqld"), "--no-defaults", f"--user={server_user()}"]
    command += [f"--datadir={datadir}", small_redo_log(packages), *mysql_options(packages)]
    script = ""
    if mysqls.version(packages) >= (5, 7, 0):
        command.append("--initialize-insecure")
    else:
        # 5.6 makes its system tables from scripts, whose accounts are more than root@localhost.
        command.append("--bootstrap")
        _own(datadir / "mysql")
        names = ("mysql_system_tables", "mysql_system_tables_data", "fill_help_tables")
        texts = [(packages.mysql_messages / f"{name}.sql").read_text() for name in names]
        wanted = "DELETE FROM user WHERE User <> 'root' OR Host <> 'localhost';\n"
        script = "".join(["USE mysql;\n", *texts, wanted])
    done = subprocess.run(command, check=False, input=script, capture_output=True, text=True)
    if done.returncode:
        raise ServerFailed(f"mysqld could not initialise: {done.stderr.strip().splitlines()[-1]}")
    (datadir / "auto.cnf").unlink(missing_ok=True)


def _own(directory: Path) -> None:
    directory.mkdir(parents=True)
    if os.getuid() == 0:
        shutil.chown(directory, server_user())


@contextlib.contextmanager
def mysqld(
    packages: Packages, directory: Path, *, address: str, port: int = 3306, options: Sequence[str] = ()
) -> Iterator[Mysql]:
    """Run mysqld on a fresh (or, at a second call, its own old) datadir in `directory`.

    `options` are added to the command line. `directory` must be reachable by the server's OS user.
    """
    datadir = directory / "data"
    run = directory / "run"
    if not datadir.exists():
        initialised_datadir(packages, datadir)
    if not run.exists():
        _own(run)
    command = [str(packages.mysql_bindir / "mysqld"), "--no-defaults", f"--user={server_user()}"]
    command += [*mysql_options(packages), f"--datadir={datadir}", f"--socket={run / 'mysqld.sock'}"]
    command += [
        f"--pid-file={run / 'mysqld.pid'}",
        f"--tmpdir={run}",
        f"--bind-address={address}",
        f"--port={port}",
        "--loose-mysqlx=OFF",
    ]
    command += [
        "--skip-name-resolve",
        small_redo_log(packages),
        "--innodb-buffer-pool-size=32M",
        *options,
    ]
    with running_mysqld(command, directory / "mysqld.log", run / "mysqld.sock") as process:
        yield Mysql(process, address, port, datadir, run / "mysqld.sock")


@contextlib.contextmanager
def running_mysqld(command: Sequence[str], log: Path, socket_path: Path) -> Iterator[Process]:
    """Run a mysqld command line of one's own; yields once the socket greets, ends it cleanly."""
    process = Process(command, log=log)
    try:
        process.wait_ready(lambda: greets(socket_path), 60.0)
        yield process
    finally:
        process.stop()


def greets(socket_path: Path) -> bool:
    """True if a MySQL server sends its greeting on this socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        connection.connect(str(socket_path))
        return len(connection.recv(5)) == 5
    return False


# --- Consul -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consul:
    """A running Consul agent; a single server unless it was asked to join one."""

    process: Process
    address: str
    port: int

    def get(self, path: str) -> Any:
        """Return the decoded answer to GET /v1/`path`."""
        with urllib.request.urlopen(f"http://{self.address}:{self.port}/v1/{path}", timeout=5.0) as answer:
            return json.load(answer)


@contextlib.contextmanager
def consul_server(
    packages: Packages,
    directory: Path,
    *,
    address: str,
    durable: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Consul]:
    """Run a single Consul server; yields once it has elected itself.

    It keeps everything in memory unless it is `durable`: then a second call on the same directory finds
    its data again. `config` is merged into the agent's configuration.
    """
    role = {"server": True, "bootstrap_expect": 1, "data_dir": str(directory / "consul")} if durable else {}
    process = start_consul(
        packages, directory, address=address, config={"node_name": "consul", **role, **(config or {})}
    )
    try:
        yield Consul(process, address, 8500)
    finally:
        process.stop(10.0)


@contextlib.contextmanager
def consul_agent(
    packages: Packages,
    directory: Path,
    *,
    address: str,
    server: str,
    name: str,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Consul]:
    """Run a Consul agent in client mode, joined to the server at the address `server`."""
    role = {
        "node_name": name,
        "data_dir": str(directory / "consul"),
        "retry_join": [server],
        "retry_interval": "1s",
    }
    process = start_consul(packages, directory, address=address, config={**role, **(config or {})})
    try:
        yield Consul(process, address, 8500)
    finally:
        process.stop(10.0)


def start_consul(packages: Packages, directory: Path, *, address: str, config: Mapping[str, Any]) -> Process:
    """Start an agent and return its process once its cluster has a leader; ServerFailed after 30 s."""
    command = consul_command(packages, directory, address=address, config=config)
    process = Process(command, log=directory / "consul.log")
    process.wait_ready(lambda: consul_ready(address), 30.0)
    return process


def consul_command(
    packages: Packages, directory: Path, *, address: str, config: Mapping[str, Any]
) -> list[str]:
    """Write an agent's configuration and return its command line.

    Without a `data_dir` it is a server that keeps everything in memory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "bind_addr": address,
        "client_addr": address,
        "disable_update_check": True,
        "performance": {"raft_multiplier": 1},
        "gossip_lan": GOSSIP,
        "log_level": "INFO",
        **config,
    }
    file = directory / "consul.json"
    file.write_text(json.dumps(settings, indent=2))
    command = [str(packages.consul), "agent", f"-config-file={file}"]
    return command if "data_dir" in settings else [*command, "-dev"]


def consul_ready(address: str) -> bool:
    """True if the agent there knows a leader."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{address}:8500/v1/status/leader", timeout=2.0) as answer,
    ):
        return bool(json.load(answer))
    return False


# --- S3 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3:
    """A running S3 server with buckets, and one identity that may use them."""

    process: Process
    endpoint: str
    access_key: str
    secret_key: str
    buckets: tuple[str, ...]


@contextlib.contextmanager
def s3_server(
    packages: Packages,
    directory: Path,
    *,
    address: str,
    buckets: Sequence[str] = ("backups",),
    access_key: str = "sandbox",
    secret_key: str = "sandbox-secret",
) -> Iterator[S3]:
    """Run SeaweedFS with the given buckets; other buckets and keys are refused."""
    process = start_s3(packages, directory, address, tuple(buckets), access_key, secret_key)
    try:
        yield S3(process, f"http://{address}:8333", access_key, secret_key, tuple(buckets))
    finally:
        process.kill()
        remove_s3_sockets(address)


def start_s3(
    packages: Packages,
    directory: Path,
    address: str,
    buckets: tuple[str, ...],
    access_key: str,
    secret_key: str,
) -> Process:
    """Start SeaweedFS and return its process once every bucket is there; ServerFailed after 60 s."""
    command = s3_command(packages, directory, address, buckets, access_key, secret_key)
    process = Process(command, log=directory / "s3.log")
    process.wait_ready(lambda: s3_ready(address, buckets), 60.0)
    return process


def s3_command(
    packages: Packages,
    directory: Path,
    address: str,
    buckets: tuple[str, ...],
    access_key: str,
    secret_key: str,
) -> list[str]:
    """Write SeaweedFS's identities and return its command line."""
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    actions = [f"{action}:{bucket}" for bucket in buckets for action in ("Read", "Write", "List")]
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    identities = {"identities": [{"name": "sandbox", "credentials": credentials, "actions": actions}]}
    config = directory / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps(identities))
    # `weed mini` would insist on the same ports on 127.0.0.1, so that only one could run on a host.
    command = [str(packages.weed), "-logtostderr=true", "server", f"-dir={data}", f"-ip={address}"]
    command += [f"-ip.bind={address}", "-master.telemetry=false", "-master.port=9333", "-volume.port=9340"]
    # Else one that was killed elects itself again only after 10 to 20 s (measured); with this, after 3.
    command += ["-master.electionTimeout=1s"]
    command += [
        "-filer",
        "-filer.port=8888",
        "-s3",
        "-s3.port=8333",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    command += _own_sockets(address)
    return [*command, "-s3.autoCreateBucket=false", f"-s3.config={config}", *_VOLUMES]


# What is deleted does not make room in a volume at once: with the default of 8, 7 GB written is the end of it.
_VOLUMES = ("-master.volumeSizeLimitMB=1024", "-volume.max=64")


def _own_sockets(address: str) -> list[str]:
    """Options that keep two instances on one host apart.

    Each part also listens on a socket /tmp/seaweedfs-PART-grpc-PORT.sock, whatever its address, and prefers
    it to the network: with equal gRPC ports one instance talks to the other's parts (measured).
    """
    options = [f"-{part}.port.grpc={port}" for part, port in _grpc_ports(address).items()]
    return [
        *options,
        *(f"-{part}.localSocket=/tmp/seaweedfs-{part}-{address}.sock" for part in ("filer", "s3")),
    ]


def _grpc_ports(address: str) -> dict[str, int]:
    *_, third, fourth = (int(part) for part in address.split("."))
    first = 10_000 + 4 * (third * 256 + fourth) % 20_000
    return {part: first + number for number, part in enumerate(("master", "volume", "filer", "s3"))}


def remove_s3_sockets(address: str) -> None:
    """Remove what a killed SeaweedFS leaves in /tmp; another user could not start one there otherwise."""
    names = [f"{part}-grpc-{port}" for part, port in _grpc_ports(address).items()]
    for name in [*names, f"filer-{address}", f"s3-{address}"]:
        with contextlib.suppress(OSError):
            Path(f"/tmp/seaweedfs-{name}.sock").unlink()


def s3_ready(address: str, buckets: Sequence[str]) -> bool:
    """Create missing buckets; True once all are there, each has a volume to write to, and the S3 port answers."""
    there = all(_bucket_exists(address, bucket) and _has_volume(address, bucket) for bucket in buckets)
    return there and answers(address, 8333)


def _bucket_exists(address: str, bucket: str) -> bool:
    """Create the bucket through the filer, which is not part of the S3 service; True once it is there."""
    return _status(f"http://{address}:8888/buckets/{bucket}/", method="POST") in (201, 409)


def _has_volume(address: str, bucket: str) -> bool:
    """The first object of a bucket makes its volumes; on a busy machine that object failed (seen)."""
    return _status(f"http://{address}:9333/dir/assign?collection={bucket}", method="GET") == 200


def _status(url: str, method: str) -> int:
    """Return the status of an answer; 0 if there was none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=2.0) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
