"""The images that ours are built on: pulled where a registry answers, else made from Debian's packages.

As a program it prints `NAME=image` lines, which docker-compose reads from a file called `.env`:
`python3 -m containers.images >.env`. An image that the environment names already is taken as it is.
Images made here hold this machine's package source and certificates: keep them on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from containers import engine
from containers.engine import say
from sandbox import packages

ROOT = Path(__file__).resolve().parent.parent
CERTIFICATES = Path("/usr/local/share/ca-certificates")
PULL_SECONDS = 300.0
BUILD_SECONDS = 900.0

# Variable of the compose files: the public image, and the name of the one made here.
IMAGES = {
    "BASE_IMAGE": ("debian:sid-slim", "autopilot-mysql-base:local"),
    "CONSUL_IMAGE": ("hashicorp/consul:1.22", "autopilot-mysql-consul:local"),
    "SEAWEEDFS_IMAGE": ("chrislusf/seaweedfs:4.48", "autopilot-mysql-seaweedfs:local"),
}


class ImageError(Exception):
    """An image cannot be had; the text is one line."""


def ensure(variables: Iterable[str] = tuple(IMAGES)) -> dict[str, str]:
    """Return the image for each of these variables of IMAGES, made or pulled if need be; ImageError if impossible."""
    made: dict[str, Callable[[str], None]] = {
        "BASE_IMAGE": _make_base,
        "CONSUL_IMAGE": _make_consul,
        "SEAWEEDFS_IMAGE": _make_seaweedfs,
    }
    chosen: dict[str, str] = {}
    registry = True
    for variable in variables:
        public, local = IMAGES[variable]
        present = os.environ.get(variable) or next((name for name in (public, local) if _exists(name)), None)
        if present:
            chosen[variable] = present
            continue
        registry = registry and _pull(public)
        if not registry:
            say(f"making {local}")
            made[variable](local)
        chosen[variable] = public if registry else local
    return chosen


def _exists(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def _pull(image: str) -> bool:
    say(f"pulling {image}")
    try:
        done = subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        say("no image registry answers; the images are made from Debian's packages instead")
    return done.returncode == 0


def _make_base(image: str) -> None:
    """A minimal Debian sid, with what this machine needs to reach its package sources."""
    engine.install(["mmdebstrap"] if shutil.which("mmdebstrap") is None else [])
    hooks = [f'mkdir -p "$1{CERTIFICATES}"']
    hooks += [f"copy-in {path} {CERTIFICATES}" for path in sorted(CERTIFICATES.glob("*.crt"))]
    command = ["mmdebstrap", "--quiet", "--variant=minbase"]
    for option in (*packages.APT_OPTIONS, 'Acquire::Check-Date "false"'):
        command.append(f"--aptopt={option}")
    for tree in ("doc", "man", "info", "locale"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{tree}/*")
    command += [f"--customize-hook={hook}" for hook in hooks]
    with tempfile.TemporaryDirectory(prefix="autopilot-base-") as directory:
        archive = Path(directory) / "base.tar"
        run([*command, "sid", str(archive), packages.debian_mirror()])
        run(["docker", "import", str(archive), image])


def _make_consul(image: str) -> None:
    """Debian's Consul, at the path where the public image has it."""
    _add_program(image, packages.ensure().consul, "/bin/consul")


def _make_seaweedfs(image: str) -> None:
    """SeaweedFS, at the path where the public image has it."""
    _add_program(image, packages.ensure().weed, "/usr/bin/weed")


def _add_program(image: str, program: Path, path: str) -> None:
    with tempfile.TemporaryDirectory(prefix="autopilot-image-") as directory:
        shutil.copy(program, Path(directory) / "program")
        Path(directory, "Dockerfile").write_text(f"FROM {IMAGES['BASE_IMAGE'][1]}\nCOPY program {path}\n")
        run(["docker", "build", "--quiet", "--tag", image, directory])


def run(command: list[str], *, given: str = "") -> str:
    """Give a program its input and return what it prints; ImageError with its last line if it fails."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the oldest builder is enough, and is always there
    try:
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, env=environment, timeout=BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{command[0]} was not done after {BUILD_SECONDS:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["(no output)"]
        raise ImageError(f"{command[0]} failed: {said[-1]}")
    return done.stdout.decode()


def main() -> int:
    """Print the variables for docker-compose; return the exit code."""
    try:
        chosen = ensure()
    except (ImageError, engine.EngineError, packages.PackagesError) as error:
        say(str(error))
        return 1
    for variable, image in chosen.items():
        print(f"{variable}={image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
