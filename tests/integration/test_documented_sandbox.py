"""docs/sandbox.md: its command line, and its use from Python (127.0.86, and the document's own 127.0.90)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cluster import Cluster
from sandbox.packages import Packages
from tests.commands import shell
from tests.documents import replaced, the_block
from tests.integration.clusters import only_one

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def directory(packages: Packages) -> Iterator[Path]:
    """Where a cluster may be; nothing of it is left afterwards."""
    path = Path(f"/tmp/autopilot-test-own-use-{os.getuid()}")
    with only_one(path.with_suffix(".lock")):
        Cluster(path, packages=packages).down()
        yield path
        Cluster(path, packages=packages).down()


def test_a_cluster_for_your_own_use(directory: Path) -> None:
    env = {**os.environ, "AUTOPILOT_SANDBOX": str(directory), "AUTOPILOT_SUBNET": "127.0.86"}
    said = shell(the_block(__file__, "test_a_cluster_for_your_own_use").text, env=env, seconds=280)
    assert " is the primary, at 127.0.86.1" in said
    assert said.count("\nmysql-node-1 ") == 2, "status has not shown it twice"
    assert not directory.exists()


def test_a_cluster_from_python(directory: Path, packages: Packages) -> None:
    program = replaced(
        the_block(__file__, "test_a_cluster_from_python").text, [("/tmp/mine", str(directory))]
    )
    shell(f'"{packages.python}" - <<"END"\n{program}\nEND\n', env=os.environ, seconds=280)
    assert not directory.exists()
