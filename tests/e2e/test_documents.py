"""The documents' commands for containers, run in a copy of this tree as a reader has it.

What differs from a reader's machine is in variables that docs/containers.md names (subnet, port, the built image),
and the network, which reaches nothing outside.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from containers.engine import compose_command
from tests.commands import shell, wrapper
from tests.documents import ROOT, replaced, the_block
from tests.e2e.compose import NAME, SUBNET, Project, wait_until

pytestmark = pytest.mark.timeout(900)

START_SECONDS = 180.0
SETTLE_SECONDS = 180.0
NETWORK = "networks:\n  default:\n"


@dataclass
class Checkout:
    """A copy of what is under version control, the shell that is in it, and its project in Docker."""

    directory: Path
    project: Project
    env: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> str:
        """Run a command as at a terminal: docker-compose's `exec` asks for one."""
        return shell(
            f"script -qefc {shlex.quote(command)} /dev/null", env=self.env, cwd=self.directory, seconds=240
        )

    def settle(self, nodes: int) -> None:
        """Wait until every node is in its role, with every acknowledged row."""
        what = f"{nodes} nodes in their roles"
        wait_until(
            lambda: not self.project.lacks(nodes), SETTLE_SECONDS, what, lambda: self.project.lacks(nodes)
        )


@pytest.fixture(scope="module")
def checkout(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Nothing is up yet; the base images are named in `.env`, and those of the project are built."""
    assert project.leftovers() == [], "the tests before these have left something"
    directory = tmp_path_factory.mktemp("documents") / "checkout"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "_env", "tests")
    shutil.copytree(ROOT, directory, ignore=unwanted)
    file = directory / "local-compose.yml"
    file.write_text(replaced(file.read_text(), [(NETWORK, f"{NETWORK}    internal: true\n")]))
    programs = directory.parent / "programs"
    if shutil.which("docker-compose") is None:  # Docker's plugin, which takes the same words
        wrapper(programs, "docker-compose", compose_command())
    env = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "COMPOSE_PROJECT_NAME": NAME,
        "COMPOSE_ANSI": "never",
        "SUBNET": SUBNET,
        "CONSUL_PORT": "0",
        "IMAGE": project.image,
        "S3_IMAGE": f"{NAME}-s3",
        "PILOT": project.pilot,
    }
    own = dataclasses.replace(
        project, directory=directory.parent, settings=dict(project.settings), rows=set(), doubtful=set()
    )
    made = Checkout(directory, own, env)
    shell(the_block(__file__, "checkout").text, env=env, cwd=directory)
    named = dict(line.split("=", 1) for line in (directory / ".env").read_text().splitlines())
    assert named == dict(project.images)
    return made


def test_the_quick_start(checkout: Checkout) -> None:
    setup, up, scale, status = the_block(__file__, "test_the_quick_start").lines
    checkout.run(setup)
    lines = (checkout.directory / "_env").read_text().splitlines()
    checkout.project.settings.update(line.split("=", 1) for line in lines if not line.startswith("#"))
    checkout.run(up)
    wait_until(lambda: checkout.project.primary() is not None, START_SECONDS, "a healthy primary")
    with checkout.project.writing():
        pass
    checkout.run(scale)
    checkout.settle(3)
    said = checkout.run(status)
    assert said.count("  replica  ") == 2, said
    assert said.count("  primary  ") == 1, said


def test_what_the_nodes_are_doing(checkout: Checkout) -> None:
    ps, status, logs = the_block(__file__, "test_what_the_nodes_are_doing").lines
    said = checkout.run(ps)
    assert all(f"{NAME}_mysql_{number}" in said.replace("-mysql-", "_mysql_") for number in (1, 2, 3)), said
    assert " is the primary of epoch 1" in checkout.run(status)
    assert "an empty database is initialised" in checkout.run(logs)


def test_scaled_up_and_down(checkout: Checkout) -> None:
    four, three = the_block(__file__, "test_scaled_up_and_down").lines
    checkout.run(four)
    checkout.settle(4)
    checkout.run(three)
    checkout.settle(3)


def test_all_of_it_is_removed(checkout: Checkout) -> None:
    checkout.project.keep_logs()
    checkout.run(the_block(__file__, "test_all_of_it_is_removed").text)
    assert checkout.project.leftovers() == []
