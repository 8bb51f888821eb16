"""The README's table of features and servers, and how a run of the tests becomes one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import mysqls
from tests import features
from tests.documents import ROOT

RUN = """
import pytest

@pytest.fixture(params=["5.6", "9.7"])
def each_mysql(request):
    yield request.param
    assert "at_the_end" not in request.node.name or request.param == "5.6"

@pytest.mark.feature("accounts")
def test_passes(each_mysql):
    pass

@pytest.mark.feature("accounts")
@pytest.mark.feature("watchdog")
def test_lacks_something(each_mysql):
    if each_mysql == "5.6":
        pytest.skip("it is too old")

@pytest.mark.feature("replication")
def test_fails_at_the_end(each_mysql):
    pass

@pytest.mark.feature("switchover", server="9.7")
def test_fails():
    raise RuntimeError

def test_shows_nothing(each_mysql):
    raise RuntimeError
"""
EARLIER = {"date": "2026-01-01", "passed": 1, "failed": [], "lacks": []}
TABLE = """\
Results of 2026-01-01 to {date}:

|  | MySQL {oldest} | MySQL {newest} |
|---|---|---|
| accounts | yes (1) | yes |
| replication | yes | no (2) |
| watchdog | no (1) | yes |
| switchover | not tested | no (3) |
| failover | not tested | yes |

1. it is too old
2. failed: `test_run.py::test_fails_at_the_end[9.7]`
3. failed: `test_run.py::test_fails`
"""


def pytest_run(directory: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test file in a directory of its own with this project's conftest."""
    (directory / "test_run.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest"]
    command += [f"--rootdir={directory}", f"--features={directory}/features.json", *options, str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


# --- The table in the README --------------------------------------------------------------------


def test_it_is_what_the_results_say() -> None:
    results = json.loads(features.RESULTS.read_text())
    _, _, rest = features.README.read_text().partition(features.BEGIN)
    assert rest.partition(features.END)[0] == features.render(results), "run `make features`"


def test_every_marked_feature_is_in_it_for_every_server() -> None:
    results = json.loads(features.RESULTS.read_text())
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    assert {name for path in paths for name in marked(path.read_text())} == set(features.FEATURES)
    assert list(results["features"]) == list(features.FEATURES), "run `make features`"
    assert list(results["servers"]) == list(mysqls.SERVERS), "run `make features`"


def marked(text: str) -> set[str]:
    """The features that the marks in a module name."""
    found = set()
    for call in ast.walk(ast.parse(text)):
        match call:
            case ast.Call(func=ast.Attribute(attr="feature"), args=[ast.Constant(value=str(name))]):
                found.add(name)
            case ast.Call(func=ast.Attribute(attr="feature")):
                raise AssertionError(f"not one name in {ast.unparse(call)}")
    return found


def test_the_ways_to_mark_are_seen() -> None:
    text = "pytestmark = [pytest.mark.feature('a')]\n@mark.feature('b', server='5.6')\ndef test(): pass\n"
    assert marked(text) == {"a", "b"}
    with pytest.raises(AssertionError, match="not one name"):
        marked("pytest.mark.feature(name)")


# --- How it is made -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["-pno:xdist", "-n1"])
def test_the_results_of_a_run_are_noted_and_rendered(tmp_path: Path, workers: str) -> None:
    """They replace what they are about, and whatever was of another version."""
    newest = ".".join(map(str, mysqls.version(mysqls.chosen("9.7"))))
    features_before = {"accounts": {"9.7": EARLIER}, "failover": {"5.6": EARLIER, "9.7": EARLIER}}
    before = {"servers": {"5.6": "5.6.1", "9.7": newest}, "features": features_before}
    (tmp_path / "features.json").write_text(json.dumps(before))
    done = pytest_run(tmp_path, RUN, workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    results: dict[str, Any] = json.loads((tmp_path / "features.json").read_text())
    assert results["features"]["accounts"]["9.7"]["passed"] == 2
    date, oldest = results["features"]["accounts"]["5.6"]["date"], results["servers"]["5.6"]
    assert oldest.startswith("5.6.2")
    assert features.render(results) == TABLE.format(date=date, oldest=oldest, newest=newest)


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("'swichover', server='9.7'", "test_run.py::test: 'swichover' is none of FEATURES"),
        ("'switchover'", "test_run.py::test: on which server does it show 'switchover'?"),
    ],
)
def test_a_mark_that_says_too_little_is_refused(tmp_path: Path, mark: str, complaint: str) -> None:
    text = f"import pytest\n\n@pytest.mark.feature({mark})\ndef test():\n    pass\n"
    done = pytest_run(tmp_path, text, "-pno:xdist")
    assert complaint in done.stderr + done.stdout
    assert not (tmp_path / "features.json").exists()
