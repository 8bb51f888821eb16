"""What may be asked for on a command line: the commands, and nothing else that the code has a name for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import manage
import pilot
from manager import failover, promotion
from manager.hooks import bootstrap, health, on_change, operator, pre_start, rescue, snapshot_task, steps

HOOKS = (bootstrap, failover, health, on_change, operator, pre_start, promotion, rescue, snapshot_task, steps)

COMMANDS = {
    "pre_start", "health", "on_change", "snapshot_task", "rescue", "first_start", "pre_stop",
    "status", "switchover", "failover", "pause", "resume", "bootstrap",
    "snapshot", "snapshots", "verify", "restore",
}  # fmt: skip


def names(*modules: object) -> set[str]:
    """Every global name of the modules."""
    return {name for module in modules for name in vars(module)}


def test_a_global_name_of_the_code_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    tried = names(manage, *HOOKS) - COMMANDS
    assert {"main", "operate", "run", "_free_the_key"} <= tried
    for name in tried:
        with pytest.raises(SystemExit) as ended:
            manage.main([name])
        assert ended.value.code == 2, name
        shown = capsys.readouterr().err.splitlines()
        assert f"invalid choice: {name!r}" in shown[-1]


def test_a_global_name_of_the_code_is_no_program_of_the_pilot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot, "load", lambda environ: pytest.fail("something is started"))
    tried = names(pilot, pilot.programs)
    assert {"start", "run_mysqld", "os"} <= tried
    for name in tried:
        assert pilot.main([name]) == 2, name
        assert capsys.readouterr().err.strip() == str(pilot.__doc__).strip()


def test_no_alarm_is_left_for_a_python_that_ends(tmp_path: Path) -> None:
    program = "import manage, signal; print(manage.main(['health']), signal.getitimer(signal.ITIMER_REAL))"
    env = {"PYTHONPATH": str(Path(manage.__file__).parent), "RUN_DIR": str(tmp_path), "CONSUL": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert "mysqld does not run" in done.stderr
    assert done.stdout.split("\n") == ["2 (0.0, 0.0)", ""]
