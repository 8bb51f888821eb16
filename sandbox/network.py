"""A network of its own for a cluster: every host in a network namespace, all on one bridge (root only).

The bridge is in a namespace of its own too, so that no packet filter of this host (Docker's, say) sees what
passes over it. This host has an address on it. Each namespace is an ordinary host to what runs in it, and a
partition is what it would be there: packets that are dropped, or a link that is down.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from sandbox.node import SandboxError
from sandbox.packages import install_programs

OURS = ipaddress.ip_network("198.18.0.0/15")
TOOLS = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux"}
HERE = 254
SWITCH = "switch"


class Network:
    """The hosts `subnet`.1 to .253; this host is .254. Nothing of its state is in this object."""

    def __init__(self, subnet: str) -> None:
        """`subnet` is the first three bytes of addresses within 198.18.0.0/15; SandboxError if it is not."""
        try:
            address = ipaddress.ip_address(f"{subnet}.0")
        except ValueError:
            raise SandboxError(f"{subnet!r} is not the first three bytes of an address") from None
        if address not in OURS:
            raise SandboxError(f"{subnet}: a cluster in namespaces takes a subnet out of {OURS}")
        self.subnet = subnet
        _, second, third, _ = (int(part) for part in f"{subnet}.0".split("."))
        # Interface names have 15 characters at most.
        self._link = f"autopilot{second:02x}{third:02x}"

    @property
    def here(self) -> str:
        """This host's own address on the network."""
        return f"{self.subnet}.{HERE}"

    def create(self) -> None:
        """Make the bridge and this host's link to it; SandboxError if another cluster has this network."""
        if os.getuid() != 0:
            raise SandboxError("network namespaces need root; as another user leave them out")
        install_programs(TOOLS)
        busy = [name for name in self._namespaces() if _run("ip", "netns", "pids", name).split()]
        if busy:
            raise SandboxError(f"{self.subnet}.0/24 is in use already; choose another subnet")
        self.destroy()
        switch = self._namespace(SWITCH)
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "uplink", "netns", switch)
        _run("ip", "-n", switch, "link", "set", "uplink", "master", "bridge", "up")
        _run("ip", "address", "add", f"{self.here}/24", "dev", self._link)
        _run("ip", "link", "set", self._link, "up")

    def add(self, host: str, address: str) -> None:
        """Make a host, with its loopback and one interface `eth0`."""
        name, switch, port = self._namespace(host), self._namespace(SWITCH), _port(address)
        _run("ip", "netns", "add", name)
        _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "link", "set", "eth0", "up")

    def remove(self, host: str) -> None:
        """Remove a host whose processes have ended; its link goes with it."""
        _run("ip", "netns", "delete", self._namespace(host))

    def destroy(self) -> None:
        """Remove every namespace and link of this network, whoever left them behind; fine if there is none."""
        for name in self._namespaces():
            _run("ip", "netns", "delete", name)
        # The kernel removes the other ends a moment later; this one must be gone before it is made again.
        with contextlib.suppress(SandboxError):
            _run("ip", "link", "delete", self._link)

    def enter(self, host: str) -> tuple[str, ...]:
        """What to put before a command so that it runs on that host."""
        return ("nsenter", f"--net=/run/netns/{self._namespace(host)}", "--")

    # --- Partitions -----------------------------------------------------------------------------

    def drop(self, host: str, *, incoming: Iterable[str] = (), outgoing: Iterable[str] = ()) -> None:
        """Drop what comes to `host` from some addresses, and what it sends to some, until `heal`."""
        rules = [f"-A INPUT -s {address} -j DROP" for address in incoming]
        rules += [f"-A OUTPUT -d {address} -j DROP" for address in outgoing]
        text = "\n".join(["*filter", *rules, "COMMIT", ""])
        _run(*self.enter(host), "iptables-restore", "--noflush", text=text)

    def unplug(self, host: str, address: str) -> None:
        """Take down the switch's side of a host's link, until `heal`: it has no carrier any more."""
        self._plug(host, address, "down")

    def heal(self, host: str, address: str) -> None:
        """Undo every `drop` and `unplug` of a host."""
        _run(*self.enter(host), "iptables", "-F")
        self._plug(host, address, "up")

    def _plug(self, host: str, address: str, state: str) -> None:
        _run("ip", "-n", self._namespace(SWITCH), "link", "set", _port(address), state)

    # --- Names ----------------------------------------------------------------------------------

    def _namespace(self, host: str) -> str:
        return f"autopilot-{self.subnet}-{host}"

    def _namespaces(self) -> list[str]:
        return [path.name for path in Path("/run/netns").glob(self._namespace("*"))]


def _port(address: str) -> str:
    return f"port{address.rpartition('.')[2]}"


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise SandboxError(f"{' '.join(command[:6])}: {said[-1]}")
    return done.stdout
