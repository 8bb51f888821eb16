"""Which feature was shown on which MySQL server: noted in a run of the tests, and rendered into the README.

A test says what it shows by `@pytest.mark.feature("switchover")`, one of FEATURES. The server is that of its parameter
`each_mysql`, or the one that the mark names: `feature("rolling upgrade", server="5.7")`. A test that finds that its
server lacks the feature is skipped with the reason, which becomes a note of the table.

`make features` runs all of them with `--features tests/features.json`, and then this module; with ARGS a part, which
leaves the other cells as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox import mysqls
from tests.documents import ROOT

RESULTS = ROOT / "tests" / "features.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- features: what follows is written by `make features` -->\n", "<!-- end of features -->\n"
# As junit reports name it, too.
PROPERTY = "features"
# The order of the table's rows.
FEATURES = (
    "a new database, and each start closed",
    "accounts",
    "founding and joining",
    "replication",
    "opening and closing",
    "one hook at a time in each server",
    "watchdog",
    "semi-sync",
    "switchover",
    "failover",
    "failover by mysqlrpladmin",
    "return of a failed primary",
    "snapshot by clone, and a node from it",
    "snapshot by mydumper, and a node from it",
    "verified restore",
    "rolling upgrade",
    "moving in",
)


def shown_by(item: pytest.Item) -> list[tuple[str, str]]:
    """Return the features that a test shows, each with its server; pytest.UsageError if a mark is wrong."""
    found = []
    for mark in item.iter_markers("feature"):
        (name,) = mark.args
        if name not in FEATURES:
            raise pytest.UsageError(f"{item.nodeid}: {name!r} is none of FEATURES in tests/features.py")
        parameters: Mapping[str, str] = item.callspec.params if hasattr(item, "callspec") else {}
        server = mark.kwargs.get("server") or parameters.get("each_mysql")
        if server is None:
            raise pytest.UsageError(f"{item.nodeid}: on which server does it show {name!r}?")
        found.append((name, server))
    return found


class Recorder:
    """Collects the results of one run, also of one with several workers, and writes them into a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cells: dict[tuple[str, str], dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            for feature, server in value if name == PROPERTY else ():
                self._note(self._cell(feature, server), report)

    def _cell(self, feature: str, server: str) -> dict[str, Any]:
        new = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "passed": 0, "failed": [], "lacks": []}
        return self.cells.setdefault((feature, server), new)

    def _note(self, cell: dict[str, Any], report: pytest.TestReport) -> None:
        if report.failed:
            cell["failed"] = sorted({*cell["failed"], report.nodeid})
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            cell["lacks"] = sorted({*cell["lacks"], reason})
        elif report.when == "call":
            cell["passed"] += 1

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """A run that was cut off says nothing."""
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.file.write_text(json.dumps(self.results(), indent=2) + "\n")

    def results(self) -> dict[str, Any]:
        """The exact version of each server, and the cells: date, passed, failed, and what is lacking.

        What this run had no test for stays as the file has it, as long as it was of the same version.
        """
        before = json.loads(self.file.read_text()) if self.file.exists() else {"servers": {}, "features": {}}
        ran = {server: _version(server) for server in {of for _, of in self.cells}}
        versions = {**before["servers"], **ran}
        cells = {
            (name, server): cell
            for name, row in before["features"].items()
            for server, cell in row.items()
            if before["servers"][server] == versions[server]
        } | self.cells
        servers = [server for server in mysqls.SERVERS if server in versions]
        return {
            "servers": {server: versions[server] for server in servers},
            "features": {
                name: {server: cells[name, server] for server in servers if (name, server) in cells}
                for name in FEATURES
                if any(name == of for of, _ in cells)
            },
        }


def _version(server: str) -> str:
    return ".".join(map(str, mysqls.version(mysqls.chosen(server))))


def render(results: Mapping[str, Any]) -> str:
    """Return the table with its notes. Pure."""
    servers: Mapping[str, str] = results["servers"]
    dates = sorted(cell["date"] for row in results["features"].values() for cell in row.values())
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    notes: list[str] = []
    lines = [
        " | ".join(["| ", *(f"MySQL {version}" for version in servers.values())]) + " |",
        "|---" * (len(servers) + 1) + "|",
    ]
    for name, cells in results["features"].items():
        lines.append(
            " | ".join([f"| {name}", *(_cell(cells.get(server), notes) for server in servers)]) + " |"
        )
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([f"Results of {when}:", "", *lines, "", *numbered]).rstrip("\n") + "\n"


def _cell(cell: Mapping[str, Any] | None, notes: list[str]) -> str:
    """What one says; its notes are added to `notes`, each reason once."""
    if cell is None:
        return "not tested"
    reasons = [f"failed: `{test}`" for test in cell["failed"]] or cell["lacks"]
    notes += [reason for reason in reasons if reason not in notes]
    word = "yes" if cell["passed"] and not cell["failed"] else "no"
    numbers = ", ".join(str(notes.index(reason) + 1) for reason in reasons)
    return f"{word} ({numbers})" if numbers else word


def main() -> None:
    """Write the table of RESULTS into the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + render(json.loads(RESULTS.read_text())) + END + after)


if __name__ == "__main__":
    main()
