"""Real servers for the tests, from the sandbox's cache; each test file uses addresses of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import mysqls, servers
from sandbox.packages import Packages
from tests import features

# What lies between the oldest and today's is for `make test-mysql`.
BETWEEN = ("5.7", "8.0")
EACH = (
    [os.environ["SANDBOX_MYSQL"]]
    if os.environ.get("SANDBOX_MYSQL")
    else [
        pytest.param(server, marks=pytest.mark.servers) if server in BETWEEN else server
        for server in mysqls.SERVERS
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--features", metavar="FILE", type=Path, help="write there which feature was shown on which server"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("features")
    # The results of a worker arrive in the process that started it.
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(features.Recorder(file))


def pytest_itemcollected(item: pytest.Item) -> None:
    if shown := features.shown_by(item):
        item.user_properties.append((features.PROPERTY, shown))


@pytest.fixture(scope="session")
def packages() -> Packages:
    """The servers' programs and the hooks' Python."""
    return mysqls.chosen()


@pytest.fixture(scope="module", params=EACH)
def each_mysql(request: pytest.FixtureRequest) -> Packages:
    """The same with each MySQL server in turn; with $SANDBOX_MYSQL, with that one alone."""
    return mysqls.chosen(request.param)


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
