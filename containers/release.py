"""`make release VERSION=9.7r1.0.0`: checks, builds and tags the image, and writes what is published beside it.

Nothing leaves this machine: what is left to a person is printed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from containers import checks, engine, images, inventory, sbom
from containers.checks import ReleaseError, Version, git
from sandbox.packages import ROOT, PackagesError

NAME = "autopilot-mysql"
LABEL = "org.opencontainers.image.version"
RELEASES = ROOT / "build" / "release"
# Besides the images that it is built on; the Dockerfile has the defaults.
ARGUMENTS = ("MYSQL_FLAVOR", "CONTAINERPILOT_URL", "CONTAINERPILOT_SHA1")


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"release: {text}", file=sys.stderr, flush=True)


def make(version: Version, image: str, *, cached: bool) -> list[str]:
    """Build, check and tag the image, and write the files; return the commands that publish it.

    The image is built anew, with the packages of today, unless `cached`. The files appear all at once, in place
    of those of an earlier run. ReleaseError, ImageError.
    """
    commit = git(ROOT, "rev-parse", "HEAD")
    bases = images.ensure(("BASE_IMAGE", "CONSUL_IMAGE"))
    with _work() as work:
        files = work / "files"
        files.mkdir()
        source = _archive(commit, version, work)
        say(f"building the image from {commit[:12]}")
        command = build_command(source, version, bases, os.environ, cached=cached)
        identity = images.run(command).split()[-1]
        held = _look_into(identity)
        complaints = checks.of_image(version, _label(identity), held)
        if complaints:
            raise ReleaseError(*complaints)
        images.run(["docker", "tag", identity, f"{image}:{version}"])
        say(f"the image is tagged {image}:{version}")
        bill = sbom.document(
            held, name=NAME, version=str(version), commit=commit, committed=_committed(commit)
        )
        (files / f"{NAME}-{version}.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
        (files / "IMAGE-ID").write_text(f"{identity}\n")
        shutil.copy(source / "requirements.lock", files)
        _save(f"{image}:{version}", files / f"{NAME}-{version}.image.tar.zst")
        _write_sums(files)
        _publish(files, RELEASES / str(version))
    say(f"the files are in {RELEASES.relative_to(ROOT) / str(version)}")
    if bases["BASE_IMAGE"] == images.IMAGES["BASE_IMAGE"][1]:
        say("the base image was made here, with this machine's package source: keep what is built on it here")
        return []
    return publishing(version, image, commit, tagged=checks.tagged(ROOT, version))


def publishing(version: Version, image: str, commit: str, *, tagged: bool) -> list[str]:
    """Return the commands that are left to a person; an image without a registry in its name gets one first."""
    commands = [] if tagged else [f'git tag -a {version} -m "{version}" {commit}']
    commands.append(f"git push origin {version}")
    if "/" not in image:
        commands.append(f"docker tag {image}:{version} REGISTRY/{image}:{version}")
        image = f"REGISTRY/{image}"
    return [*commands, f"docker push {image}:{version}"]


@contextlib.contextmanager
def _work() -> Iterator[Path]:
    """An empty directory beside the results for the time of the block; ReleaseError while another run has it."""
    RELEASES.mkdir(parents=True, exist_ok=True)
    with open(RELEASES / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReleaseError("another release is being made here: wait for its end") from None
        work = RELEASES / ".work"
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work)


def _archive(commit: str, version: Version, work: Path) -> Path:
    """Write the archive of the sources, and return the directory where they are unpacked from it again.

    The image is built there: what git ignores cannot get into it.
    """
    name = f"{NAME}-{version}"
    file = work / "files" / f"{name}.tar.gz"
    options = ["--format=tar.gz", f"--prefix={name}/", f"--output={file}"]
    git(ROOT, "-c", "tar.umask=0022", "archive", *options, commit)
    images.run(["tar", "-C", str(work), "--no-same-owner", "-xzf", str(file)])
    return work / name


def build_command(
    source: Path, version: Version, bases: Mapping[str, str], environ: Mapping[str, str], *, cached: bool
) -> list[str]:
    """Return the command that builds the image and prints its id."""
    values = {"VERSION": str(version), **bases}
    values |= {name: environ[name] for name in ARGUMENTS if name in environ}
    arguments = [f"--build-arg={name}={value}" for name, value in values.items()]
    return ["docker", "build", "--quiet", *([] if cached else ["--no-cache"]), *arguments, str(source)]


def _look_into(identity: str) -> inventory.Inventory:
    """Return what the image holds, as its own programs tell."""
    command = ["docker", "run", "--rm", "--interactive", "--network=none", identity, "python3", "-"]
    told: inventory.Inventory = json.loads(images.run(command, given=Path(inventory.__file__).read_text()))
    return told


def _label(identity: str) -> str:
    form = f'{{{{index .Config.Labels "{LABEL}"}}}}'
    return images.run(["docker", "image", "inspect", "--format", form, identity]).strip()


def _committed(commit: str) -> datetime.datetime:
    seconds = git(ROOT, "show", "--no-patch", "--format=%ct", commit)
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _save(image: str, file: Path) -> None:
    """Write the image as `docker load` reads it."""
    say("saving the image")
    compressor = zstandard.ZstdCompressor()
    with (
        open(file, "wb") as target,
        subprocess.Popen(
            ["docker", "save", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as saving,
    ):
        assert saving.stdout is not None
        compressor.copy_stream(saving.stdout, target)
    if saving.returncode:
        raise ReleaseError(f"docker save {image} failed")


def _write_sums(directory: Path) -> None:
    """Write SHA256SUMS, which `sha256sum --check` reads, of all other files."""
    lines = []
    for path in sorted(directory.iterdir()):
        with open(path, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (directory / "SHA256SUMS").write_text("".join(lines))


def _publish(files: Path, final: Path) -> None:
    """Put complete results in place of older ones; what a kill leaves half removed lies in the work directory."""
    if final.exists():
        final.rename(files.with_name("old"))
    files.rename(final)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the release; return 0, or 1 if that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m containers.release", description=__doc__)
    parser.add_argument("--version", default="", help="<MySQL series>r<semantic version>")
    parser.add_argument("--image", default="", help=f"the image's name without a tag (default {NAME})")
    parser.add_argument("--cached", default="", help="1: take the layers that Docker has from earlier builds")
    given = parser.parse_args(arguments)
    image = given.image or NAME
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an engine that was started here is stopped
    try:
        version = Version.parse(given.version)
        if ":" in image.rpartition("/")[2]:
            raise ReleaseError(
                f"IMAGE: must be a name without a tag, since VERSION is its tag, not {image!r}"
            )
        complaints = checks.before(ROOT, version)
        if complaints:
            raise ReleaseError(*complaints)
        with engine.running():
            commands = make(version, image, cached=given.cached == "1")
    except (ReleaseError, images.ImageError, engine.EngineError, PackagesError) as error:
        for line in error.args:
            say(line)
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 1
    if commands:
        print("To publish it:", *commands, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
