"""Docker and docker-compose on this machine: installed and started only where there are none.

As a program: `python3 -m containers.engine` starts what is missing and keeps it until it is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

# Addresses for benchmark networks (RFC 2544), so that no real network is ever in the way.
BRIDGE = "198.19.255.1/24"
POOL = "base=198.19.0.0/17,size=24"
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class EngineError(Exception):
    """Docker cannot be had here; the text is one line that says what to do."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"docker: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """A Docker engine and docker-compose for the time of the block; EngineError if there can be none.

    An engine that runs already is used as it is. One that was started here is stopped at the end, and
    its log is kept only if it failed.
    """
    _install_missing()
    if _answers():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="autopilot-dockerd-") as directory:
        daemon = _start(Path(directory))
        try:
            yield
        finally:
            _stop(daemon)


def compose_command() -> list[str]:
    """Return the words that start docker-compose: the program (v1 or v2), or Docker's plugin."""
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


def install(wanted: Iterable[str]) -> None:
    """Install Debian packages, saying so first; EngineError, naming them, where that is not possible."""
    names = list(wanted)
    if not names:
        return
    if shutil.which("apt-get") is None or os.getuid() != 0:
        raise EngineError(f"missing on this machine, install as root: apt-get install {' '.join(names)}")
    say(f"installing Debian packages: {' '.join(names)}")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *names]):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            said = (done.stderr or done.stdout).decode().strip().splitlines() or ["(no output)"]
            raise EngineError(f"{' '.join(command)} failed: {said[-1]}")


def _install_missing() -> None:
    wanted: list[str] = []
    if not _answers() and _daemon_program() is None:
        wanted += ["docker.io", "iptables"]
    if not shutil.which("docker-compose") and not _succeeds("docker", "compose", "version"):
        wanted.append("docker-compose")
    install(wanted)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    program = _daemon_program()
    if program is None or os.getuid() != 0:
        raise EngineError("no Docker engine answers: start one, or run this as root to have it started")
    say("no Docker engine runs here: starting one, to be stopped at the end")
    log_file = directory / "dockerd.log"
    with open(log_file, "wb") as log:
        daemon = subprocess.Popen(
            [program, f"--pidfile={directory}/pid", f"--bip={BRIDGE}", f"--default-address-pool={POOL}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt from the keyboard is ours, and ends the daemon in order
        )
    end = time.monotonic() + START_SECONDS
    while not _answers():
        if daemon.poll() is not None or time.monotonic() > end:
            _stop(daemon)
            last = log_file.read_text(errors="replace").strip().splitlines() or ["(no output)"]
            raise EngineError(f"the Docker engine did not start: {last[-1]}")
        time.sleep(0.2)
    return daemon


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        say("stopping the Docker engine that was started here")
        daemon.terminate()
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _daemon_program() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _answers() -> bool:
    return _succeeds("docker", "version")


def _succeeds(*command: str) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    """Keep an engine running until SIGINT or SIGTERM; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with running():
            say("the engine answers; interrupt to end")
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except EngineError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
