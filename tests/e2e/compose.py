"""The compose project that the end-to-end tests run, and a client that finds its primary as users do."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
from pymysql.cursors import Cursor

from containers.engine import compose_command
from sandbox.health import Catalogue, Endpoint
from sandbox.writer import TABLE, Writer

ROOT = Path(__file__).resolve().parents[2]
NAME = "autopilot-e2e"
BUILT = f"{NAME}-mysql"
PILOT = Path(__file__).parent / "pilot"
NETWORK = f"{NAME}_default"
LABEL = f"label=com.docker.compose.project={NAME}"
SUBNET = os.environ.get("E2E_SUBNET", "198.18.40.0/24")
LOG_FILE = ROOT / "build" / f"{NAME}.log"
WRITE_SECONDS = 90.0
ROWS = 50
STATUS_SECONDS = 60.0
SYNC_MEMBERS = 2
# What a client is told by a node that is not, or is no longer, or is not yet what it was taken for.
NOT_NOW = (pymysql.err.OperationalError, pymysql.err.InterfaceError, pymysql.err.ProgrammingError)
FILES = (ROOT / "local-compose.yml", ROOT / "tests" / "e2e" / "internal.yml")


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"e2e: {text}", file=sys.stderr, flush=True)


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, why: Callable[[], str] = str
) -> None:
    """Ask `condition` until it is true; AssertionError, with what `why` says then, after that many seconds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not within {seconds:.0f} s. {why()}")
        time.sleep(0.25)
    say(f"{what}: {time.monotonic() - start:.1f} s")


@dataclass
class Project:
    """One compose project: its command line, its containers, its Consul, and the rows that it acknowledged.

    Of `doubtful` rows nobody was told what became of them.
    """

    directory: Path
    images: Mapping[str, str]
    pilot: str
    settings: dict[str, str] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)
    next_row: int = 1
    program: list[str] = field(default_factory=compose_command)

    def __post_init__(self) -> None:
        self.settings = {
            "MYSQL_USER": "app",
            "MYSQL_PASSWORD": f"$PATH #{secrets.token_urlsafe(18)}'$",
            "MYSQL_DATABASE": "shop",
            "MYSQL_REPL_USER": "repl",
            "MYSQL_REPL_PASSWORD": f"$x#{secrets.token_urlsafe(18)}",
            "MYSQL_ROOT_PASSWORD": secrets.token_urlsafe(18),
            "INNODB_BUFFER_POOL_SIZE": "128M",
            "AWS_ACCESS_KEY": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_BUCKET": "snapshots",
            **self.settings,
        }
        self.write_settings()

    @property
    def env_file(self) -> Path:
        """The file that users call `_env`."""
        return self.directory / "_env"

    def write_settings(self) -> None:
        """Write the settings as they are now; `up` then makes the containers anew."""
        self.env_file.touch(mode=0o600)
        self.env_file.write_text(
            "".join(f"{name}={quoted(value)}\n" for name, value in self.settings.items())
        )

    def compose(self, *words: str, timeout: float = 180.0, pilot: str = "") -> str:
        """Run docker-compose on this project and return its output; AssertionError if it fails.

        Containers that it makes have `pilot`, by default what their image has.
        """
        command = [*self.program, "-p", NAME]
        for file in FILES:
            command += ["-f", str(file)]
        environment = {
            **os.environ,
            **self.images,
            "ENV_FILE": str(self.env_file),
            "SUBNET": SUBNET,
            "IMAGE": self.image if words[0] != "build" else BUILT,
            "S3_IMAGE": f"{NAME}-s3",
            "CONTAINERPILOT_URL": "",
            "PILOT": pilot,
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }
        return _output([*command, *words], timeout, environment)

    @property
    def image(self) -> str:
        """The nodes' image: as it is built, or with ContainerPilot added to it."""
        return f"{NAME}-containerpilot" if self.pilot == "containerpilot" else BUILT

    def build(self) -> None:
        """Build the images."""
        self.compose("build", timeout=900)
        if self.pilot != "containerpilot":
            return
        context = self.directory / "pilot"
        shutil.copytree(PILOT, context)
        shutil.copy(ROOT / "requirements-dev.lock", context)
        given = os.environ.get("CONTAINERPILOT")
        if given:
            (context / "containerpilot").mkdir()
            shutil.copy(given, context / "containerpilot" / "containerpilot")
        else:
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "tests" / "containerpilot", context / "containerpilot", ignore=unwanted)
        arguments = [f"--build-arg=BASE_IMAGE={self.images['BASE_IMAGE']}", f"--build-arg=IMAGE={BUILT}"]
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        _output(["docker", "build", "--tag", self.image, *arguments, str(context)], 900, environment)

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's running containers."""
        of_service = f"label=com.docker.compose.service={service}"
        command = ["docker", "ps", "--no-trunc", "--quiet", "--filter", LABEL, "--filter", of_service]
        return _output(command).split()

    def pilots(self) -> list[str]:
        """Return what runs the hooks in each node's container, sorted."""
        commands = [
            _output(["docker", "exec", each, "cat", "/proc/1/cmdline"]) for each in self.containers("mysql")
        ]
        return sorted("consul" if "supervisord" in command else "containerpilot" for command in commands)

    def address(self, container: str) -> str:
        """Return a running container's address, which this host reaches directly."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return _output(["docker", "inspect", "--format", form, container]).strip()

    def volumes(self, *, below: str = "/") -> set[str]:
        """Return the names of the volumes that the project's containers have mounted below a directory."""
        form = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{.Destination}}{{"\\n"}}{{end}}{{end}}'
        ids = _output(["docker", "ps", "--all", "--quiet", "--filter", LABEL]).split()
        if not ids:
            return set()
        mounts = [
            line.split() for line in _output(["docker", "inspect", "--format", form, *ids]).splitlines()
        ]
        return {mount[0] for mount in mounts if mount and mount[1].startswith(below)}

    def leftovers(self) -> list[str]:
        """Return the ids of what this project still has: containers and networks."""
        kinds = (("ps", "--all"), ("network", "ls"))
        return [
            each for kind in kinds for each in _output(["docker", *kind, "-q", "--filter", LABEL]).split()
        ]

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """What Consul knows; first asked for once its container is up, which is never made anew."""
        (server,) = self.containers("consul")
        return Catalogue(self.address(server), "mysql")

    def primary(self) -> Endpoint | None:
        """Return the healthy primary, if there is exactly one."""
        return self.catalogue.primary

    def primary_container(self) -> str:
        """Return the id of the healthy primary's container."""
        primary = self.primary()
        assert primary is not None, "there is no healthy primary"
        return next(each for each in self.containers("mysql") if self.address(each) == primary.address)

    def members(self) -> int:
        """Return how many replicas may acknowledge commits: before there is one, a lost primary is waited for."""
        record = self.catalogue.key("mysql-cluster")
        return len(json.loads(record)["members"]) if record else 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """A client that writes all the time, and looks for the primary again when it is gone."""
        writer = Writer(
            self.catalogue,
            user=self.settings["MYSQL_USER"],
            password=self.settings["MYSQL_PASSWORD"],
            database=self.settings["MYSQL_DATABASE"],
            first=self.next_row,
        )
        wait_until(lambda: _table_made(writer), WRITE_SECONDS, "the writer's table is made")
        writer.start()
        try:
            wait_until(
                lambda: len(writer.history.acknowledged) >= ROWS, WRITE_SECONDS, f"{ROWS} rows acknowledged"
            )
            yield writer
            enough = len(writer.history.acknowledged) + ROWS
            wait_until(
                lambda: len(writer.history.acknowledged) >= enough, WRITE_SECONDS, f"{ROWS} rows acknowledged"
            )
        finally:
            writer.stop()
            self.next_row = writer.next
            self.rows |= set(writer.history.acknowledged)
            self.doubtful |= writer.history.unknown

    def read(self, instance: Endpoint) -> set[int] | None:
        """Return every row on one node, or None while it has no such table or refuses us."""
        with contextlib.suppress(*NOT_NOW), self.client(instance) as cursor:
            cursor.execute(f"SELECT n FROM {TABLE}")
            return {row[0] for row in cursor.fetchall()}
        return None

    @contextlib.contextmanager
    def client(self, instance: Endpoint) -> Iterator[Cursor]:
        """A cursor of the application's user on one node."""
        connection = pymysql.connect(
            host=instance.address,
            port=instance.port,
            user=self.settings["MYSQL_USER"],
            password=self.settings["MYSQL_PASSWORD"].encode(),
            database=self.settings["MYSQL_DATABASE"],
            connect_timeout=5,
            read_timeout=10,
            write_timeout=10,
            autocommit=True,
        )
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def lacks(self, nodes: int, *, rows: bool = True) -> str:
        """Return what is missing to one healthy primary, all others its replicas and members, all `rows` on each."""
        primary, replicas = self.primary(), self.catalogue.replicas
        addresses = {self.address(each) for each in self.containers("mysql")}
        if primary is None:
            return "a healthy primary"
        if len(addresses) != nodes or {each.address for each in replicas} != addresses - {primary.address}:
            return f"{nodes - 1} healthy replicas: there are {replicas} of {addresses}"
        if self.members() != min(nodes - 1, SYNC_MEMBERS):
            return f"members: there are {self.members()}"
        for instance in (primary, *replicas) if rows else ():
            found = self.read(instance)
            if found is None or not self.rows <= found <= self.rows | self.doubtful:
                missing = (
                    "no answer" if found is None else f"{len(self.rows - found)} of {len(self.rows)} missing"
                )
                return f"the rows on {instance.node}: {missing}"
        return ""

    def show(self) -> None:
        """Print the table of `manage.py status`, once it says that there is a healthy primary."""
        node = self.containers("mysql")[0]
        command = ["docker", "exec", node, "manage.py", "status"]
        table = ""

        def sound() -> bool:
            nonlocal table
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
            )
            table = done.stdout + done.stderr
            return done.returncode == 0

        try:
            wait_until(sound, STATUS_SECONDS, "manage.py status finds a healthy primary")
        finally:
            print(table, file=sys.stderr, flush=True)

    def docker(self, *words: str) -> str:
        """Run docker, say so, and return its output; AssertionError if it fails."""
        say(f"docker {' '.join(word[:24] for word in words)}")
        return _output(["docker", *words], 180)

    @contextlib.contextmanager
    def cut_off(self, container: str) -> Iterator[None]:
        """Take a container off its network for the time of the block; it comes back at the same address."""
        address = self.address(container)
        self.docker("network", "disconnect", NETWORK, container)
        try:
            yield
        finally:
            self.docker("network", "connect", "--ip", address, NETWORK, container)

    def build_newer(self, dockerfile: str) -> None:
        """Give the nodes' image name to a newer image, which is built on it and has an option of its own."""
        context = self.directory / "newer"
        for name in ("conf.d", "initdb.d"):
            (context / name).mkdir(parents=True)
        (context / "Dockerfile").write_text(dockerfile)
        (context / "conf.d" / "own.cnf").write_text("[mysqld]\nmax_connections = 77\n")
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        _output(["docker", "build", "--tag", self.image, str(context)], 300, environment)

    def images_in_use(self) -> set[str]:
        """Return the ids of the images of the nodes that run."""
        form = "{{.Image}}"
        return set(_output(["docker", "inspect", "--format", form, *self.containers("mysql")]).split())

    def keep_logs(self) -> None:
        """Write what the containers printed to a file under build/, for whoever looks for a reason."""
        LOG_FILE.parent.mkdir(exist_ok=True)
        LOG_FILE.write_text(self.logs())
        say(f"the containers' logs are in {LOG_FILE.relative_to(ROOT)}")

    def logs(self) -> str:
        """Return everything that the containers printed."""
        return self.compose("logs", "--no-color")

    def remove(self) -> None:
        """Remove the containers, the network and the volumes, whatever state they are in."""
        volumes = self.volumes()
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20", timeout=240)
        # Version 1 forgets the volumes of containers that it has made anew.
        forgotten = volumes & existing_volumes()
        if forgotten:
            _output(["docker", "volume", "rm", *forgotten])


def _table_made(writer: Writer) -> bool:
    with contextlib.suppress(ConnectionError, *NOT_NOW):
        writer.create_table()
        return True
    return False


def quoted(value: str) -> str:
    """Return a value as docs/containers.md has it written in `_env`."""
    return "'" + value.replace("'", "\\'") + "'"


def existing_volumes() -> set[str]:
    """Return the names of all of the engine's volumes."""
    return set(_output(["docker", "volume", "ls", "--quiet"]).split())


def _output(command: list[str], timeout: float = 60.0, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )
    said = done.stderr.strip()[-2000:]
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}: {said}"
    return done.stdout
