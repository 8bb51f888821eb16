"""The compose files and `_env` under both versions of Compose, and a node brought up with the newer one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from manager.settings import load
from sandbox.packages import ROOT
from tests.documents import the_block
from tests.e2e.compose import LABEL, Project, quoted, wait_until
from tests.e2e.versions import VERSIONS, compose, config, output, settings

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("project", ["consul"], indirect=True, scope="session"),
]

START_SECONDS = 180.0
AWKWARD = {
    "DOLLAR": "a$x",
    "DOLLARS": "$$x$1$",
    "HOME_OF": "$HOME/a",
    "COMMENT": "a #b",
    "SPACES": "  a  ",
    "SINGLE": "it's 'so'",
    "DOUBLE": '"a" "$x"',
    "BACKSLASH": "\\a\\nb\\$x",
    "SIGNS": "`!%&*()[]{}<>?~^|;:,.@=+/-_#",
    "LETTERS": "äß€",
    "LINES": "a\nb",
    "EMPTY": "",
}
"""What any secret may hold; `x` and `HOME` are set where Compose runs."""


def env_file(directory: Path, values: dict[str, str]) -> Path:
    path = directory / "_env"
    path.write_text("".join(f"{name}={quoted(value)}\n" for name, value in values.items()))
    return path


@pytest.mark.parametrize("file", ["docker-compose.yml", "local-compose.yml"])
def test_both_versions_read_the_same_out_of_a_file(tmp_path: Path, project: Project, file: str) -> None:
    path = env_file(tmp_path, {"MYSQL_USER": "app", "BACKUP_TTL": "7"})
    one, two = (config(version, file, path) for version in VERSIONS)
    assert one == two


@pytest.mark.parametrize("version", VERSIONS)
def test_the_laptops_file_extends_the_other(tmp_path: Path, project: Project, version: str) -> None:
    path = env_file(tmp_path, {"MYSQL_USER": "app"})
    base = config(version, "docker-compose.yml", path, IMAGE="mine:1")
    laptop = config(
        version, "local-compose.yml", path, IMAGE="mine:1", MYSQL_MEMORY="2g", SUBNET="198.18.1.0/24"
    )
    assert (list(base["services"]), base["subnets"]) == (["consul", "mysql"], ["198.18.0.0/24"])
    assert (list(laptop["services"]), laptop["subnets"]) == (["consul", "mysql", "s3"], ["198.18.1.0/24"])
    node, laptops = base["services"]["mysql"], laptop["services"]["mysql"]
    environment = {"CONSUL_AGENT": "1", "PILOT": "", "MYSQL_USER": "app"}
    assert node == {
        "image": "mine:1",
        "restart": "always",
        "mem_limit": 4 << 30,
        "stop_grace_period": 100,
        "environment": environment,
        "labels": {"triton.cns.services": "mysql"},
        "expose": ["3306", "9090"],
        "volumes": [],
        "ports": [],
    }
    assert laptops.pop("build")["context"] == str(ROOT)
    assert laptops == {
        **node,
        "mem_limit": 2 << 30,
        "environment": {**environment, "BACKUP_DRIVER": "s3", "AWS_ENDPOINT_URL": "http://s3:8333"},
        "ports": [("127.0.0.1", "", "3306")],
    }
    assert base["services"]["consul"]["volumes"] == ["/consul/data"]
    assert laptop["services"]["s3"]["environment"] == {"MYSQL_USER": "app"}


@pytest.mark.parametrize("version", VERSIONS)
def test_quoted_values_are_read_as_they_are(tmp_path: Path, project: Project, version: str) -> None:
    found = settings(version, env_file(tmp_path, AWKWARD), x="expanded", HOME="/expanded")
    assert {name: found[name] for name in AWKWARD} == AWKWARD


@pytest.mark.parametrize("version", VERSIONS)
def test_the_documented_value_is_read_as_it_is(tmp_path: Path, project: Project, version: str) -> None:
    path = tmp_path / "_env"
    path.write_text(the_block(__file__, "test_the_documented_value_is_read_as_it_is").text)
    assert settings(version, path)["MYSQL_PASSWORD"] == 'pa$$ #word\'s "end"'


def test_what_the_manual_warns_of_is_so(tmp_path: Path, project: Project) -> None:
    braces = env_file(tmp_path, {"A": "a${x}", "B": "\\\\"})
    assert [settings(version, braces, x="X")["A"] for version in VERSIONS] == ["aX", "a${x}"]
    assert [settings(version, braces)["B"] for version in VERSIONS] == ["\\", "\\\\"]
    (tmp_path / "_env").write_text("A=a$x\n")
    assert [settings(version, tmp_path / "_env", x="X")["A"] for version in VERSIONS] == ["a$x", "aX"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("store", ["laptop", "manta"])
def test_what_setup_writes_is_what_the_settings_get(
    tmp_path: Path, project: Project, version: str, store: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "key").chmod(0o600)
    wanted = {"MANTA_USER": "$me", "MANTA_SUBUSER": "it's", "MANTA_ROLE": "a #b", "MANTA_BUCKET": "/$x/stor"}
    subprocess.run(
        [str(ROOT / "setup.sh"), *(["key"] if store == "manta" else [])],
        cwd=tmp_path,
        env={**os.environ, **wanted},
        check=True,
        capture_output=True,
    )
    found = settings(version, tmp_path / "_env", x="expanded", me="expanded", NODE_ADDRESS="127.0.0.1")
    for name in ("MYSQL_PASSWORD", "MYSQL_REPL_PASSWORD"):
        assert len(found[name]) == 24, name
        assert found[name].replace("-", "").replace("_", "").isalnum(), name
    # Manta would take none of the awkward names: what matters of them is that they arrive.
    usual = {"MANTA_USER": "me", "MANTA_SUBUSER": "", "MANTA_ROLE": "", "MANTA_BUCKET": "/me/stor/mysql"}
    read = load({**found, **(usual if store == "manta" else {}), "NODE_ADDRESS": "127.0.0.1"})
    assert read.replication
    if store == "laptop":
        assert (found["AWS_BUCKET"], len(found["AWS_SECRET_ACCESS_KEY"])) == ("snapshots", 24)
        return
    assert {name: found[name] for name in wanted} == wanted
    encoded = found["MANTA_PRIVATE_KEY"].replace("#", "\n").encode()
    arrived = serialization.load_pem_private_key(encoded, password=None)
    assert isinstance(arrived, ec.EllipticCurvePrivateKey)
    assert arrived.private_numbers() == key.private_numbers()


@pytest.mark.parametrize("version", VERSIONS)
def test_they_reach_a_container_as_they_are(
    tmp_path: Path, project: Project, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("x", "expanded")
    own = dataclasses.replace(
        project, directory=tmp_path, settings=AWKWARD, rows=set(), doubtful=set(), program=compose(version)
    )
    try:
        own.compose("up", "--no-start", "mysql")
        nodes = output(
            ["docker", "ps", "--all", "--quiet", "--filter", LABEL, "--filter", "volume=/var/lib/mysql"]
        )
        found = environment(nodes.strip())
        assert {name: found[name] for name in own.settings} == own.settings
    finally:
        own.remove()


@pytest.fixture(scope="module")
def node(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """A project of version 2 with one node, and that node's container."""
    own = dataclasses.replace(
        project,
        directory=tmp_path_factory.mktemp("second"),
        settings={},
        rows=set(),
        doubtful=set(),
        program=compose("2"),
    )
    try:
        own.compose("up", "-d")
        wait_until(lambda: own.primary() is not None, START_SECONDS, "a healthy primary, with version 2")
        yield own, own.containers("mysql")[0]
    finally:
        own.keep_logs()
        own.remove()
    assert own.leftovers() == []


def test_version_2_brings_up_a_primary(node: tuple[Project, str]) -> None:
    project, container = node
    with project.writing():  # as the application's user, whose password is awkward
        pass
    assert not project.lacks(1)
    found = environment(container)
    assert {name: found[name] for name in project.settings} == project.settings


def test_docker_shows_it_as_healthy(node: tuple[Project, str]) -> None:
    form = "{{.State.Health.Status}}"
    wait_until(
        lambda: output(["docker", "inspect", "--format", form, node[1]]).strip() == "healthy",
        START_SECONDS,
        "shown as healthy",
    )


def test_mysqld_is_not_root(node: tuple[Project, str]) -> None:
    listed = output(["docker", "top", node[1], "-eo", "pid,uid,comm"]).splitlines()[1:]
    users = {program: user for _, user, program in (line.split() for line in listed)}
    assert users["mysqld"] == "999"


def environment(container: str) -> dict[str, str]:
    """The environment of a container, as Docker has it."""
    words = json.loads(output(["docker", "inspect", "--format", "{{json .Config.Env}}", container]))
    return dict(word.split("=", 1) for word in words)
