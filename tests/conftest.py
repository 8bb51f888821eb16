"""Real servers for the tests, from the sandbox's cache; each test file uses addresses of its own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import servers
from sandbox.packages import Packages, ensure


@pytest.fixture(scope="session")
def packages() -> Packages:
    """The servers' programs and the hooks' Python."""
    return ensure()


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A directory that mysqld's OS user can reach as well (pytest's own tmp_path is closed to it)."""
    directory = Path(tempfile.mkdtemp(prefix="autopilot-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def _stack(server_directory: Path) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def start_mysqld(
    packages: Packages, server_directory: Path, _stack: contextlib.ExitStack
) -> Callable[..., servers.Mysql]:
    """`start_mysqld("127.0.50.1", options=[...])` runs a fresh mysqld until the test ends."""

    def start(address: str, **kwargs: Any) -> servers.Mysql:
        directory = server_directory / f"mysql-{address}"
        return _stack.enter_context(servers.mysqld(packages, directory, address=address, **kwargs))

    return start


@pytest.fixture
def start_consul(
    packages: Packages, server_directory: Path, _stack: contextlib.ExitStack
) -> Callable[..., servers.Consul]:
    """`start_consul("127.0.50.2", config={...})` runs a Consul server until the test ends."""

    def start(address: str, **kwargs: Any) -> servers.Consul:
        directory = server_directory / f"consul-{address}"
        return _stack.enter_context(servers.consul_server(packages, directory, address=address, **kwargs))

    return start


@pytest.fixture
def start_s3(
    packages: Packages, server_directory: Path, _stack: contextlib.ExitStack
) -> Callable[..., servers.S3]:
    """`start_s3("127.0.50.3", buckets=["backups"])` runs an S3 server until the test ends."""

    def start(address: str, **kwargs: Any) -> servers.S3:
        directory = server_directory / f"s3-{address}"
        return _stack.enter_context(servers.s3_server(packages, directory, address=address, **kwargs))

    return start
