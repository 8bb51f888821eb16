"""A directory that the tests of one module share, which mysqld's OS user can reach as well."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="autopilot-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
