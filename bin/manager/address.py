"""Finding out under which address other nodes reach this one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from manager.errors import ConfigError


def own_address(consul: str, port: int) -> str:
    """Return the address of the interface that reaches Consul, else the host name's; takes 2 s at most."""
    found = _within(1.0, lambda: _address_towards(consul, port))
    found = found or _within(1.0, lambda: socket.gethostbyname(socket.gethostname()))
    if found is None:
        raise ConfigError("NODE_ADDRESS: this node's address could not be found out; set it")
    return found


def _within(seconds: float, look_up: Callable[[], str]) -> str | None:
    """Return what `look_up` finds, or None. Name servers have no time limit of ours, hence the thread."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            found.append(look_up())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _address_towards(host: str, port: int) -> str:
    """A connected UDP socket knows its own address and has sent nothing."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
