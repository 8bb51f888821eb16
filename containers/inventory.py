"""What an image holds, as JSON. Runs inside the image, from standard input: `python3 - <containers/inventory.py`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

# Programs that no package brought, and the words that make them tell their version.
PROGRAMS = {"consul": "version", "containerpilot": "-version"}


class DebianPackage(TypedDict):
    """A package of the distribution; `licenses` are the short names in its copyright file, where there is one."""

    name: str
    version: str
    architecture: str
    licenses: list[str]


class PythonPackage(TypedDict):
    """A package of the Python environment; `expression` is in SPDX's form, `licenses` are in words."""

    name: str
    version: str
    expression: str
    licenses: list[str]


class Program(TypedDict):
    """A program, the version that it tells, and the sum of its file."""

    name: str
    version: str
    sha256: str


class Inventory(TypedDict):
    """What the image holds; `mysql` and `manage` are what `mysqld --version` and `manage.py --version` print."""

    mysql: str
    manage: str
    distribution: str
    release: str
    debian: list[DebianPackage]
    python: list[PythonPackage]
    programs: list[Program]


def debian_licenses(text: str) -> list[str]:
    """Return the short names of licences in a copyright file of the machine-readable kind (DEP 5), sorted."""
    if not text.startswith("Format:"):
        return []
    return sorted(set(re.findall(r"^License:[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)))


def told_version(said: str) -> str:
    """Return the first version in what a program prints; ValueError if there is none."""
    match = re.search(r"[0-9]+\.[0-9]+\.[0-9]+[^\s,]*", said)
    if match is None:
        raise ValueError(f"no version in {said!r}")
    return match[0]


def _debian() -> list[DebianPackage]:
    form = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
    rows = [line.split("\t") for line in _said("dpkg-query", "--show", f"--showformat={form}").splitlines()]
    return [
        {
            "name": name,
            "version": version,
            "architecture": architecture,
            "licenses": debian_licenses(_text(Path("/usr/share/doc", name, "copyright"))),
        }
        for status, name, version, architecture in rows
        if status == "installed"
    ]


def _python() -> list[PythonPackage]:
    found: list[PythonPackage] = []
    for each in importlib.metadata.distributions():
        (words, *_) = each.metadata.get_all("License", [""])
        (expression, *_) = each.metadata.get_all("License-Expression", [""])
        classified = [
            classifier.rpartition(" :: ")[2]
            for classifier in each.metadata.get_all("Classifier", [])
            if classifier.startswith("License ::")
        ]
        found.append(
            {
                "name": each.metadata["Name"],
                "version": each.version,
                "expression": expression,
                # Some have the whole text there.
                "licenses": [words] if words and len(words) <= 80 else classified,
            }
        )
    return found


def _programs() -> list[Program]:
    found: list[Program] = []
    for name, word in PROGRAMS.items():
        path = shutil.which(name)
        if path is not None:
            sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            found.append({"name": name, "version": told_version(_said(path, word)), "sha256": sha256})
    return found


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Print the inventory; return the exit code."""
    release = platform.freedesktop_os_release()
    inventory: Inventory = {
        "mysql": _said("mysqld", "--version"),
        "manage": _said("manage.py", "--version"),
        "distribution": release["ID"],
        "release": release.get("VERSION_CODENAME", ""),
        "debian": _debian(),
        "python": _python(),
        "programs": _programs(),
    }
    json.dump(inventory, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
