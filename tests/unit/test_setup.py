"""setup.sh: what it writes is what the settings take, and what it refuses it refuses in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

from manager.settings import load
from sandbox.packages import ROOT


def run(
    directory: Path, *arguments: str, tools: tuple[str, ...] = ("docker", "docker-compose")
) -> tuple[int, str, str]:
    """Run it where only these tools of Docker's are to be found (it asks no more than whether they are there)."""
    found = directory / "tools"
    found.mkdir(exist_ok=True)
    for name in ("bash", "head", "base64", "tr", "cat", "mv", "env"):
        (found / name).unlink(missing_ok=True)
        (found / name).symlink_to(f"/usr/bin/{name}")
    for name in tools:
        (found / name).write_text("#!/usr/bin/env bash\nexit 1\n")
        (found / name).chmod(0o755)
    command = [str(ROOT / "setup.sh"), *arguments]
    done = subprocess.run(
        command, cwd=directory, env={"PATH": str(found)}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_it_writes_what_the_settings_take(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path)
    assert code == 0
    assert "_env is written" in out
    assert (tmp_path / "_env").stat().st_mode & 0o777 == 0o600
    written = dict(line.split("=", 1) for line in (tmp_path / "_env").read_text().splitlines())
    settings = load({**written, "NODE_ADDRESS": "127.0.0.1", "BACKUP_DRIVER": "s3"})
    assert settings.replication
    passwords = {written[name] for name in written if "PASSWORD" in name or "SECRET" in name}
    assert len(passwords) == 3
    assert all(len(password) == 24 for password in passwords)


def test_it_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "_env").write_text("MYSQL_USER=mine\n")
    code, _, error = run(tmp_path)
    assert (code, error.count("\n")) == (1, 1)
    assert "there is an _env already" in error
    assert (tmp_path / "_env").read_text() == "MYSQL_USER=mine\n"


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    code, _, error = run(tmp_path, tools=())
    assert (code, error) == (1, "setup.sh: docker is missing: install Docker\n")
    code, _, error = run(tmp_path, tools=("docker",))
    assert code == 1
    assert error.startswith("setup.sh: Compose is missing")
    assert not (tmp_path / "_env").exists()


def test_help_and_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path, "--help")[0] == 0
    assert run(tmp_path, "--what")[0] == 2
