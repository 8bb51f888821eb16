"""The client of the control socket. It imports little: a node starts one every few seconds."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.containerpilot.template import render


def put(arguments: list[str], environ: Mapping[str, str]) -> None:
    """Send `-putmetric=NAME=VALUE` to the ContainerPilot of the file in $CONTAINERPILOT; OSError, ValueError."""
    values = dict(one.removeprefix("-putmetric=").split("=", 1) for one in arguments)
    text = render(Path(environ["CONTAINERPILOT"]).read_text(), environ)
    found = re.search(r'control: \{ socket: "([^"]+)" \}', text)
    if found is None:
        raise ValueError("no control socket in the file")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(5.0)
        connection.connect(found.group(1))
        connection.sendall(json.dumps(values).encode() + b"\n")
        connection.recv(16)
