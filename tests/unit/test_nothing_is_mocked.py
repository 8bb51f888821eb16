"""No test puts something of its own in the place of Consul or MySQL, or of what speaks with them: whoever does that
tests what he believes of them. What is decided is tested on frozen values, what speaks with them on real servers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("unittest.mock", "mock", "pytest_mock", "responses", "requests_mock", "httpretty", "vcr", "moto")
SPEAKING = (
    *("discovery/*.py", "view.py", "node.py"),
    *(f"mysql/{name}.py" for name in ("accounts", "connection", "guard", "operations", "private")),
    *(f"mysql/{name}.py" for name in ("replication", "semisync", "state")),
)
OTHERS = {"programs.pause", "programs.subprocess.run", "dump.step", "tests.integration.manta_server._line"}
"""What is called like something that speaks with them, and does not."""
DRIVERS = {"connect", "Connection", "Consul", "request", "urlopen", "create_connection"}


@cache
def speaking() -> frozenset[str]:
    """The names of all classes, functions and methods that speak with Consul or MySQL."""
    files = [file for pattern in SPEAKING for file in (ROOT / "bin" / "manager").glob(pattern)]
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = {n.name for file in files for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, kinds)}
    return frozenset(found | DRIVERS)


def mocks(source: str) -> Iterator[str]:
    """What a test's source mocks, a line each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            yield from (f"{n} is imported" for n in names if f"{n}.".startswith(_dotted(LIBRARIES)))
        elif isinstance(node, ast.arg) and node.arg == "mocker":
            yield "mocker is asked for"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "setattr":
            target, *rest = [a.value if isinstance(a, ast.Constant) else ast.unparse(a) for a in node.args]
            name = f"{target}.{rest[0]}" if len(rest) == 2 else str(target)
            if name.rpartition(".")[2] in speaking() and name not in OTHERS:
                yield f"{name} is replaced"


def _dotted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


@pytest.mark.parametrize("directory", ["unit", "integration", "model", "e2e"])
def test_no_test_stands_in_for_consul_or_mysql(directory: str) -> None:
    files = sorted((ROOT / "tests" / directory).glob("*.py"))
    assert len(files) > 4
    assert [f"{file.name}: {found}" for file in files for found in mocks(file.read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "import mock",
        "import unittest.mock",
        "from unittest import mock",
        "from unittest.mock import MagicMock",
        "import requests_mock.mocker",
        "def test(mocker): ...",
        "monkeypatch.setattr(Client, 'read', lambda keys: {})",
        "monkeypatch.setattr('manager.discovery.client.Client.transaction', fake)",
        "monkeypatch.setattr(health, 'gather', lambda *given: view())",
        "monkeypatch.setattr(operations, 'close_server', fake)",
        "monkeypatch.setattr(pymysql, 'connect', fake)",
        "setattr(node.discovery, 'view', lambda: cluster())",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert len(list(mocks(source))) == 1


def test_a_time_limit_or_a_program_may_be_another() -> None:
    assert list(mocks("monkeypatch.setattr(on_change, 'TOTAL', 4.0)")) == []
    assert list(mocks("monkeypatch.setattr(programs.subprocess, 'run', run)")) == []
    assert list(mocks("monkeypatch.setattr('os.getuid', lambda: 1000)")) == []
    assert list(mocks("import mockery, unittest")) == []
