"""No secret is shown anywhere at LOG_LEVEL=DEBUG, through founding, snapshot, failover and restore (G7)."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import stat
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.packages import Packages
from tests.integration.clusters import LONG, consul, converged, manage, running, until

pytestmark = pytest.mark.timeout(600)

GENERATED = re.compile(rb"GENERATED ROOT PASSWORD: (\S+)")
# Quoted, or printed by repr, these passwords are not what the log knows how to redact; their letters are still there.
LETTERS = {"MYSQL_PASSWORD": "kXh7Rw2mQz9s", "MYSQL_REPL_PASSWORD": "Tn4vBq8yLc3d"}
GIVEN = {name: f"'\"{letters}\\%s#" for name, letters in LETTERS.items()}
# As after a rotation: each of the two is a secret.
KEYS = [str(pyrage.x25519.Identity.generate()) for _ in range(2)]

# Keeps the command line of whatever a Python program starts: most of these are gone before anybody sees them.
RECORDER = """
import os, sys

def record(event, details):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        with open({file!r}, "a") as file:
            file.write(repr(details[:2]) + "\\n")

sys.addaudithook(record)
"""


class Watch:
    """Looks again and again at every command line of the host, and at what Consul keeps of the checks."""

    def __init__(self, cluster: Cluster) -> None:
        self.command_lines: set[bytes] = set()
        self.outputs: set[bytes] = set()
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rounds = 0
        while not self._ended.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.command_lines.add(file.read_bytes())
            if rounds % 10 == 0:
                self._look_at_checks()
            rounds += 1

    def _look_at_checks(self) -> None:
        addresses = [self._cluster.consul_address, *(node.address for node in self._cluster.nodes)]
        for url in (f"http://{address}:8500/v1/agent/checks" for address in addresses):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
                self.outputs.add(answer.read())
        self.outputs.add(json.dumps(consul(self._cluster, "health/state/any")).encode())

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@dataclass(frozen=True)
class Past:
    """A cluster with a history, and all that was watched meanwhile."""

    cluster: Cluster
    watch: Watch
    # A part of each that no quoting changes.
    secrets: dict[str, bytes]
    started: Path

    def logs(self) -> dict[Path, bytes]:
        """Every log file, by its path."""
        return {path: path.read_bytes() for path in self.cluster.directory.rglob("*.log*") if path.is_file()}

    def shown_in(self, text: bytes) -> list[str]:
        """The names of the secrets in a text."""
        return [name for name, secret in self.secrets.items() if secret in text]


@pytest.fixture(scope="module")
def past(packages: Packages) -> Iterator[Past]:
    with tempfile.TemporaryDirectory(prefix="autopilot-test-") as recorder:
        started = Path(recorder) / "started"
        (Path(recorder) / "sitecustomize.py").write_text(RECORDER.format(file=str(started)))
        env = {"LOG_LEVEL": "DEBUG", "SNAPSHOT_INTERVAL": "2", "PYTHONPATH": recorder, **GIVEN}
        env["SNAPSHOT_KEY"] = " ".join(KEYS)
        with running(packages, "secrets", "127.0.67", env=env) as cluster:
            watch = Watch(cluster)
            try:
                live(cluster)
                secrets = {**LETTERS, "AWS_SECRET_ACCESS_KEY": cluster.secrets["AWS_SECRET_ACCESS_KEY"]}
                secrets |= {f"SNAPSHOT_KEY, number {number}": key for number, key in enumerate(KEYS, 1)}
                yield Past(cluster, watch, {name: text.encode() for name, text in secrets.items()}, started)
            finally:
                watch.end()


def live(cluster: Cluster) -> None:
    """Two nodes, a snapshot, a failover, a third node that is restored, and every command run by hand."""
    cluster.add_node()
    cluster.add_node()
    first = converged(cluster, replicas=1)["primary_name"]
    cluster.node(first).mysql(f"CREATE TABLE {DATABASE}.kept (n INT PRIMARY KEY)")
    key = f"{cluster.service_name}-last-backup"
    until(lambda: cluster.catalogue.key(key) is not None, LONG, "no snapshot")
    cluster.node(first).kill()
    cluster.wait_primary(LONG, other_than=first)
    third = cluster.add_node()
    converged(cluster, replicas=1)
    facts = json.loads((third.directory / "data" / ".autopilot.json").read_text())
    assert facts["origin"] == "restored"
    (snapshot, *_) = json.loads(manage(cluster.packages, third.env, "snapshots", "--json").out)
    assert snapshot["encryption"] == "age"
    wrong = {"AWS_ENDPOINT_URL": "http://127.0.67.99:8333", "MYSQL_PORT": "3999"}
    for command in ("pre_start", "status", "health", "snapshot_task", "on_change"):
        for changes in ({}, wrong):
            ran = manage(cluster.packages, {**third.env, **changes}, command)
            with open(cluster.directory / "by-hand.log", "a") as file:
                file.write("\n".join([*ran.lines, ran.out, ""]))


def test_no_log_shows_a_secret_but_the_generated_root_password_once(past: Past) -> None:
    logs = past.logs()
    assert len(logs) >= 5, f"these are not all logs: {sorted(map(str, logs))}"
    assert any(b" DEBUG " in text for text in logs.values()), "nothing was logged at DEBUG"
    for path, text in logs.items():
        assert past.shown_in(text) == [], f"{path} shows secrets"
    generated = [match for text in logs.values() for match in GENERATED.findall(text)]
    assert len(generated) == 1, f"{len(generated)} generated root passwords were printed"
    assert sum(text.count(generated[0]) for text in logs.values()) == 1


def test_no_command_line_shows_a_secret(past: Past) -> None:
    root = root_password(past)
    seen, started = past.watch.command_lines, past.started.read_bytes().splitlines()
    assert any(b"mysqld\0" in line for line in seen), "the watch has not seen mysqld"
    assert any(b"manage.py\0health" in line for line in seen), "the watch has not seen a hook"
    assert any(b"mysql_tzinfo_to_sql" in line for line in started), "what a hook starts was not recorded"
    for line in (*seen, *started):
        assert past.shown_in(line) == [], line.replace(b"\0", b" ")[:40]
        assert root not in line


def test_consul_holds_no_secret(past: Past) -> None:
    root = root_password(past)
    entries = consul(past.cluster, "kv/?recurse")
    assert {"mysql-cluster", "mysql-primary", "mysql-last-backup"} <= {one["Key"] for one in entries}
    for entry in entries:
        value = base64.b64decode(entry["Value"] or "")
        assert past.shown_in(value) == [], f"{entry['Key']} shows secrets"
        assert root not in value
    assert len(past.watch.outputs) > 1
    for output in past.watch.outputs:
        assert past.shown_in(output) == [], "a check's output shows secrets"
        assert root not in output, "the generated root password is in a check's output"


def test_no_file_that_everybody_can_read_holds_a_secret(past: Past) -> None:
    root = root_password(past)
    seen = 0
    for path in past.cluster.directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) or not mode & stat.S_IROTH or path.suffix == ".log":
                continue
            content = path.read_bytes()
            seen += 1
            assert past.shown_in(content) == [], f"{path} is readable by everybody and holds secrets"
            assert root not in content, f"{path} holds the generated root password"
    assert seen > 10


def root_password(past: Past) -> bytes:
    for text in past.logs().values():
        if match := GENERATED.search(text):
            return match[1]
    raise AssertionError("no root password was generated")
