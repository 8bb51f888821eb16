"""Compose in both of its versions, and what each makes of the compose files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox.packages import ROOT, program

VERSIONS = ("1", "2")
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# PyYAML is what version 1 itself reads with: it is there for the system's Python, and not for ours.
TO_JSON = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
SYSTEM_PYTHON = "/usr/bin/python3"


def compose(version: str) -> list[str]:
    """Return the words that start this version of Compose: the one that is installed, or Debian 13's."""
    if version == "2":
        return program("docker-compose", "usr/libexec/docker/cli-plugins/docker-compose", suite="trixie")
    found = shutil.which("docker-compose")
    if found is None or not output([found, "version", "--short"]).startswith("1."):
        pytest.skip("docker-compose is not version 1 here")
    return [found]


def config(version: str, file: str, env_file: Path, **environ: str) -> dict[str, Any]:
    """Return what `config` says of a compose file, in one form for both versions."""
    command = [*compose(version), "-p", "some", "-f", str(ROOT / file), "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "ENV_FILE": str(env_file), **environ}
    found = output(command, environment=environment)
    read = json.loads(output([SYSTEM_PYTHON, "-c", TO_JSON], given=found))
    return {
        "services": {name: _service(service) for name, service in read["services"].items()},
        "subnets": [each["subnet"] for each in read["networks"]["default"]["ipam"]["config"]],
        "networks": list(read["networks"]),
    }


def settings(version: str, env_file: Path, **environ: str) -> dict[str, str]:
    """Return the environment that this version gives a node whose settings are in a file."""
    found: dict[str, str] = config(version, "docker-compose.yml", env_file, **environ)["services"]["mysql"][
        "environment"
    ]
    return found


def output(command: list[str], *, given: str = "", environment: dict[str, str] | None = None) -> str:
    """Return what a program prints; AssertionError, with what it said, if it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, f"{command[-1]} exited with {done.returncode}: {done.stderr.strip()[-1000:]}"
    return done.stdout


def _service(given: dict[str, Any]) -> dict[str, Any]:
    """One service with numbers for sizes and times, and without what only repeats a default."""
    service = {
        **given,
        "environment": {
            name: str(value).replace("$$", "$") for name, value in given.get("environment", {}).items()
        },
        "mem_limit": _bytes(str(given["mem_limit"])),
        "expose": [str(port) for port in given.get("expose", ())],
        "volumes": [_target(volume) for volume in given.get("volumes", ())],
        "ports": [_port(port) for port in given.get("ports", ())],
    }
    if "stop_grace_period" in given:
        service["stop_grace_period"] = _seconds(given["stop_grace_period"])
    if "build" in given:
        service["build"] = {name: value for name, value in given["build"].items() if name != "dockerfile"}
    service.pop("networks", None)  # each is in `default`, which version 1 does not say
    assert given.get("networks", {"default": None}) == {"default": None}
    assert given.get("build", {}).get("dockerfile", "Dockerfile") == "Dockerfile"
    return service


def _bytes(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(?:(\d+)m)?(\d+)s", text)
    assert match, text
    return 60 * int(match[1] or 0) + int(match[2])


def _target(volume: str | dict[str, Any]) -> str:
    """The path of an anonymous volume."""
    if isinstance(volume, str):
        return volume
    assert volume["type"] == "volume"
    assert "source" not in volume
    return str(volume["target"])


def _port(port: str | dict[str, Any]) -> tuple[str, str, str]:
    """Address and port on the host (empty: any), and the port inside."""
    if isinstance(port, str):
        host, published, inside = port.removesuffix("/tcp").split(":")
        return host, published, inside
    assert port["protocol"] == "tcp"
    return port["host_ip"], port.get("published", ""), str(port["target"])
