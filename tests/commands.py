"""Commands of the documents, run as a reader's shell would."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sandbox.node import Node
from tests.documents import ROOT


def shell(text: str, *, env: Mapping[str, str], cwd: Path = ROOT, seconds: float = 120.0) -> str:
    """Run commands in bash and return what they print; AssertionError if one of them fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{text}exited with {done.returncode}: {done.stdout[-3000:]}"
    return done.stdout


def environment(node: Node) -> dict[str, str]:
    """What a shell on a node has: manage.py in PATH, and its agent where Consul's program looks for it."""
    path = f"{ROOT / 'bin'}:{node.env['PATH']}"
    return {**node.env, "PATH": path, "CONSUL_HTTP_ADDR": f"{node.address}:8500"}


def on(node: Node, text: str) -> str:
    """Run commands on a node of the sandbox and return what they print; AssertionError if one fails."""
    return shell(text, env=environment(node), seconds=200)


def wrapper(directory: Path, name: str, words: list[str]) -> None:
    """Make a command `name` in a directory for PATH, out of the words that run its program."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    (directory / name).chmod(0o755)
