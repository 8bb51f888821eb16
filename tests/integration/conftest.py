"""What the tests with real servers share: a directory per module, and what is told when one fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from sandbox.cluster import Cluster
from sandbox.writer import Writer
from tests.integration.clusters import RUNNING, diagnosis, writing


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    """A directory that the tests of one module share, which mysqld's OS user can reach as well."""
    directory = Path(tempfile.mkdtemp(prefix="autopilot-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Writer]:
    """A writer at work on the module's `cluster`."""
    with writing(cluster) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failed test's report how its clusters are, while they still run."""
    report = yield
    if report.failed:
        report.sections += [(f"cluster {one.directory.name}", diagnosis(one)) for one in RUNNING]
    return report
