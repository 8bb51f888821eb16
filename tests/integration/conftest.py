"""What the tests with real servers share: a directory per module, and what is told when one fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.integration.clusters import RUNNING, diagnosis


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    """A directory that the tests of one module share, which mysqld's OS user can reach as well."""
    directory = Path(tempfile.mkdtemp(prefix="autopilot-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failed test's report how its clusters are, while they still run."""
    report = yield
    if report.failed:
        report.sections += [(f"cluster {one.directory.name}", diagnosis(one)) for one in RUNNING]
    return report
