"""What is in the image and what is not: no secret in any layer, and nothing that only the build needed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from containers.engine import compose_command
from sandbox.packages import ROOT
from tests.e2e.compose import NAME, Project, say
from tests.e2e.versions import output

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("project", ["consul"], indirect=True, scope="session"),
]

PLANTED = f"{NAME}-planted"
CONTEXT = f"{NAME}-context"
# A block as files have it, and as MANTA_PRIVATE_KEY does; the bare words are in every library that reads keys.
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*[#\r\n]+[A-Za-z0-9+/=:, \r\n#-]{40}")
BUILD_ONLY = re.compile(
    r"(usr/(local/)?(s?bin)/([a-z0-9_-]*-)?(gcc|g\+\+|cc|make|ld|strip|pip3?)(-?[0-9.]+)?"
    r"|var/lib/apt/lists/.+|var/cache/apt/.*\.(deb|bin)|root/\.cache/.+|.*/site-packages/pip/.+)"
)


@dataclass(frozen=True)
class Planted:
    """A build context with secrets in it, and the image that was built there."""

    context: Path
    secrets: Mapping[str, bytes]


@pytest.fixture(scope="module")
def planted(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """The image built once more, in a copy of the sources where a careless user has left `_env`s and a key."""
    context = tmp_path_factory.mktemp("context") / "sources"
    unwanted = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, context, ignore=unwanted)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    values = {
        name: secrets.token_urlsafe(18)
        for name in ("MYSQL_PASSWORD", "MYSQL_REPL_PASSWORD", "MYSQL_ROOT_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    }
    lines = [f"{name}='{value}'" for name, value in values.items()]
    lines.append(f"MANTA_PRIVATE_KEY='{pem.decode().replace(chr(10), '#')}'")
    for place in ("_env", "_env.new", ".env", "bin/_env", "bin/manager/_env", "etc/_env", "etc/.env.old"):
        (context / place).write_text("\n".join(lines) + "\n")
    (context / "id_rsa").write_bytes(pem)
    (context / "bin" / "__pycache__").mkdir()
    (context / "bin" / "__pycache__" / "old.pyc").write_bytes(b"")
    command = [*compose_command(), "-p", NAME, "-f", str(context / "local-compose.yml"), "build", "mysql"]
    environment = {
        **os.environ,
        **project.images,
        **values,
        "ENV_FILE": str(context / "_env"),
        "IMAGE": PLANTED,
        "CONTAINERPILOT_URL": "",
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_DOCKER_CLI_BUILD": "0",
    }
    subprocess.run(command, cwd=context, env=environment, check=True, capture_output=True, timeout=600)
    try:
        key_line = pem.splitlines()[1]
        yield Planted(context, {name: value.encode() for name, value in values.items()} | {"key": key_line})
    finally:
        output(["docker", "image", "rm", "--no-prune", PLANTED])


@pytest.fixture(scope="module")
def described(planted: Planted) -> dict[str, Any]:
    """What Docker says of the image."""
    found: dict[str, Any] = json.loads(output(["docker", "image", "inspect", PLANTED]))[0]
    return found


@dataclass(frozen=True)
class Content:
    """The names of all files of all layers that are not empty, and which of them hold a secret, or a private key."""

    names: frozenset[str]
    with_secret: tuple[tuple[str, str], ...]
    with_key: tuple[str, ...]


@pytest.fixture(scope="module")
def content(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What the layers hold: also what a later one has deleted or written over."""
    names, with_secret, with_key = set(), [], []
    for name, data in saved(PLANTED, tmp_path_factory.mktemp("saved")):
        if data:
            names.add(name)
        with_secret += [(name, which) for which, secret in planted.secrets.items() if secret in data]
        if PRIVATE_KEY.search(data):
            with_key.append(name)
    say(f"looked through {len(names)} files")
    return Content(frozenset(names), tuple(with_secret), tuple(with_key))


def saved(image: str, directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of every layer of an image, and the files that describe it, each with its bytes."""
    archive = directory / "image.tar"
    output(["docker", "save", "--output", str(archive), image])
    with tarfile.open(archive) as whole:
        for member in whole:
            part = whole.extractfile(member) if member.isfile() else None
            if part is None:
                continue
            if not tarfile.is_tarfile(part):
                part.seek(0)
                yield member.name, part.read()
                continue
            part.seek(0)
            with tarfile.open(fileobj=part) as layer:
                for each in layer:
                    file = layer.extractfile(each) if each.isfile() else None
                    if file is not None:
                        yield each.name.removeprefix("./"), file.read()
    archive.unlink()


def test_nothing_but_the_sources_is_sent_to_the_builder(planted: Planted, tmp_path: Path) -> None:
    command = ["docker", "build", "--quiet", "--tag", CONTEXT, "--file", "-", str(planted.context)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    output(command, given="FROM scratch\nCOPY . /context/\n", environment=environment)
    try:
        sent = {name for name, _ in saved(CONTEXT, tmp_path) if name.startswith("context/")}
    finally:
        output(["docker", "image", "rm", CONTEXT])
    wanted = [path for part in ("bin", "etc") for path in (ROOT / part).rglob("*") if path.is_file()]
    wanted = [path for path in wanted if path.parent.name != "__pycache__"]
    wanted += [ROOT / "requirements.lock", ROOT / "containers" / "install_mysql.sh"]
    assert sent == {f"context/{path.relative_to(ROOT)}" for path in wanted}


def test_no_file_of_any_layer_holds_a_secret(content: Content) -> None:
    assert "opt/autopilot/bin/manage.py" in content.names
    assert content.with_secret == ()
    assert not [name for name in content.names if Path(name).name.startswith(("_env", ".env"))]


def test_no_file_of_any_layer_holds_a_private_key(content: Content) -> None:
    assert content.with_key == ()


def test_no_secret_is_in_what_docker_tells(planted: Planted) -> None:
    for words in (["history", "--no-trunc"], ["image", "inspect"]):
        told = output(["docker", *words, PLANTED]).encode()
        assert b"manage.py" in told
        assert [which for which, secret in planted.secrets.items() if secret in told] == []


def test_nothing_that_only_the_build_needed_is_left(content: Content) -> None:
    assert sorted(name for name in content.names if BUILD_ONLY.fullmatch(name)) == []


def test_it_is_what_its_users_expect(described: dict[str, Any]) -> None:
    config = described["Config"]
    assert list(config["Volumes"]) == ["/var/lib/mysql"]
    assert sorted(config["ExposedPorts"]) == ["3306/tcp", "9090/tcp"]
    assert config["Healthcheck"]["Test"] == ["CMD", "manage.py", "health", "--as", "alive"]
    assert config["Cmd"] == ["pilot.py"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert (labels["title"], labels["licenses"]) == ("Autopilot MySQL", "Apache-2.0")
    assert labels["description"]
    assert labels["version"]
    say(f"the image has {described['Size'] / 1e6:.0f} MB")


def test_hooks_start_from_bytecode(planted: Planted) -> None:
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", PLANTED]
    done = subprocess.run(
        [*command, "-v", "/opt/autopilot/bin/manage.py", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("#") and "/opt/autopilot/" in line]
    taken = [line for line in ours if line.startswith("# code object from ")]
    assert any("/bin/manager/" in line for line in taken)
    assert [line for line in taken if not line.endswith(".pyc'")] == []
    assert [line for line in ours if line.startswith("# wrote ")] == []
