"""mysqlrpladmin, of MySQL Utilities 1.4.3, and the Python 2.7 that it needs: fetched once, when it is asked for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from sandbox import packages as parts
from sandbox.packages import PackagesError

ARCHIVE = (
    "mysql-utilities==1.4.3 --hash=sha256:6657c67cff1a4f3905e6143d62af6bf2dc8a72de73b2ca82b8eac7e50f3ecad7"
)
PYTHON = ("python2.7", "usr/bin/python2.7", "bullseye")  # the last release that has it
NAME = "mysqlrpladmin"


@cache
def tools() -> Path:
    """Return the directory with `mysqlrpladmin` and `python2.7`, for PATH; PackagesError if they cannot be had."""
    python = parts.program(*PYTHON)
    tree = parts.cache_directory() / "mysql-utilities-1.4.3"
    parts.built(tree, lambda new: _build(new, python))
    return tree


def _build(new: Path, python: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        wanted = directory / "requirements.txt"
        wanted.write_text(f"{ARCHIVE}\n")
        # pip unpacks the archive and then fails: it cannot build what is written for Python 2.
        command = [sys.executable, "-m", "pip", "download", "--no-clean", "--no-deps", "--no-binary", ":all:"]
        command += ["--no-build-isolation", "--requirement", str(wanted), "--dest", str(directory)]
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(directory)},
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        found = next(directory.glob(f"pip-*/*/scripts/{NAME}.py"), None)
        if found is None:
            said = done.stderr.strip().splitlines() or ["(no output)"]
            raise PackagesError(f"pip cannot fetch mysql-utilities: {said[-1]}")
        # Python looks for modules beside the program.
        shutil.copytree(found.parent.parent / "mysql", new / "mysql")
        shutil.copy(found, new / NAME)
    (new / NAME).chmod(0o755)
    script = new / "python2.7"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    script.chmod(0o755)
