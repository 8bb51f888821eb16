"""`make release` in a copy of this tree: what it makes, and what it refuses because of what the image holds."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from containers import images
from manager import __version__
from tests.commands import shell
from tests.documents import ROOT, replaced, the_block
from tests.e2e.compose import BUILT, NAME, Project, wait_until
from tests.e2e.versions import output

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.parametrize("project", ["consul"], indirect=True, scope="session"),
]

IMAGE = f"{NAME}-release"
DOCUMENTED = "9.7r1.0.0"


@dataclass(frozen=True)
class Tree:
    """A copy of this tree with a commit of its own, and the version that is released from it."""

    root: Path
    version: str
    env: dict[str, str]

    @property
    def files(self) -> Path:
        """Where a release of this version is put."""
        return self.root / "build" / "release" / self.version

    @property
    def command(self) -> list[str]:
        """What `make release` runs."""
        words = ["--version", self.version, "--image", IMAGE, "--cached", "1"]
        return [sys.executable, "-m", "containers.release", *words]

    def named(self, version: str) -> Tree:
        """Return the same tree with a commit of a changelog for this version."""
        (self.root / "CHANGELOG.md").write_text(f"# Changelog\n\n## {version} - 2026-11-27\n\n* All of it.\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", version)
        return dataclasses.replace(self, version=version)

    def git(self, *words: str) -> str:
        """Run git as somebody, and return what it prints."""
        somebody = ["-c", "user.name=Some Body", "-c", "user.email=somebody@example.org"]
        return output(["git", "-C", str(self.root), *somebody, *words])


@pytest.fixture(scope="module")
def tree(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """The copy; the images that are released from it are gone afterwards."""
    root = tmp_path_factory.mktemp("release") / "tree"
    unwanted = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache", "_env*", ".env*")
    shutil.copytree(ROOT, root, ignore=unwanted)
    said = output(["docker", "run", "--rm", "--network=none", BUILT, "mysqld", "--version"])
    series = re.search(r"Ver (\d+\.\d+)", said)
    assert series, said
    env = {**os.environ, **project.images, "CONTAINERPILOT_URL": "", "IMAGE": IMAGE, "CACHED": "1"}
    made = Tree(root, f"{series[1]}r{__version__}", env)
    made.git("init", "--quiet")
    try:
        yield made
    finally:
        remove_images(made.version, f"8.4r{__version__}")


def remove_images(*versions: str) -> None:
    """Remove what was tagged here, and what was refused before it was; not a release that was really made here."""
    named = output(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE]).split()
    for version in versions:
        label = f"label=org.opencontainers.image.version={version}"
        named += output(
            ["docker", "images", "--quiet", "--filter", "dangling=true", "--filter", label]
        ).split()
    if named:
        output(["docker", "image", "rm", "--no-prune", *named])


def test_another_series_is_refused_for_what_the_image_holds(tree: Tree) -> None:
    wrong = tree.named(f"8.4r{__version__}")
    command = ["make", "release", f"VERSION={wrong.version}"]
    done = subprocess.run(command, cwd=wrong.root, env=wrong.env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert f"release: the image holds MySQL {tree.version.split('r')[0]}, not 8.4: release " in done.stderr
    assert not wrong.files.exists()
    assert output(["docker", "images", "--quiet", f"{IMAGE}:{wrong.version}"]) == ""


def test_a_run_that_is_killed_leaves_nothing_that_looks_complete(tree: Tree) -> None:
    whole = tree.named(tree.version)
    work = tree.files.parent / ".work"
    running = subprocess.Popen(whole.command, cwd=whole.root, env=whole.env, start_new_session=True)
    try:
        wait_until(lambda: list(work.glob("files/*.zst")) != [], 120, "the image is being saved")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert list((work / "files").iterdir()) != []
    assert not tree.files.exists()


@pytest.fixture(scope="module")
def released(tree: Tree) -> tuple[Tree, str]:
    """The release, made by the documented commands, and what they printed."""
    whole = tree.named(tree.version)
    text = replaced(the_block(__file__, "released").text, [(DOCUMENTED, tree.version)])
    return whole, shell(text, env=whole.env, cwd=whole.root, seconds=200)


def test_the_files_are_there_with_their_sums(released: tuple[Tree, str]) -> None:
    tree, said = released
    name = f"autopilot-mysql-{tree.version}"
    assert sorted(path.name for path in tree.files.iterdir()) == sorted(
        [
            "IMAGE-ID",
            "SHA256SUMS",
            "requirements.lock",
            f"{name}.cdx.json",
            f"{name}.image.tar.zst",
            f"{name}.tar.gz",
        ]
    )
    assert said.count(": OK") == 5
    assert (tree.files / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes()
    with tarfile.open(tree.files / f"{name}.tar.gz") as sources:
        names = sources.getnames()
    held = tree.git("ls-tree", "-r", "--name-only", "HEAD").splitlines()
    assert {f"{name}/{each}" for each in held} <= set(names)
    assert f"{name}/build" not in names
    assert not (tree.files.parent / ".work").exists()


def test_nothing_is_published(released: tuple[Tree, str], project: Project) -> None:
    tree, said = released
    assert tree.git("tag", "--list") == ""
    if project.images["BASE_IMAGE"] == images.IMAGES["BASE_IMAGE"][1]:
        assert "keep what is built on it here" in said
        assert "push" not in said
    else:
        assert f"docker push REGISTRY/{IMAGE}:{tree.version}" in said


def test_the_image_says_its_version_and_is_what_was_saved(released: tuple[Tree, str]) -> None:
    tree, _ = released
    (described,) = json.loads(output(["docker", "image", "inspect", f"{IMAGE}:{tree.version}"]))
    assert described["Config"]["Labels"]["org.opencontainers.image.version"] == tree.version
    identity = (tree.files / "IMAGE-ID").read_text().strip()
    assert described["Id"] == identity
    with (
        open(tree.files / f"autopilot-mysql-{tree.version}.image.tar.zst", "rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as saved,
    ):
        manifest = next(saved.extractfile(each) for each in saved if each.name == "manifest.json")
        assert manifest is not None
        (entry,) = json.load(manifest)
    assert entry["RepoTags"] == [f"{IMAGE}:{tree.version}"]
    assert identity.removeprefix("sha256:") in entry["Config"]


def test_the_bill_names_what_is_in_the_image(released: tuple[Tree, str]) -> None:
    tree, _ = released
    text = (tree.files / f"autopilot-mysql-{tree.version}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    assert bill["metadata"]["component"]["version"] == tree.version
    assert {"name": "autopilot-mysql:commit", "value": tree.git("rev-parse", "HEAD").strip()} in (
        bill["metadata"]["properties"]
    )
    found = {each["name"]: each for each in bill["components"]}
    assert found["mysql-server-core"]["version"].startswith(f"{tree.version.split('r')[0]}.")
    assert found["mysql-server-core"]["purl"].startswith("pkg:deb/debian/mysql-server-core@")
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    python = {
        each["purl"].split("@")[0].removeprefix("pkg:pypi/"): each["version"]
        for each in bill["components"]
        if each.get("purl", "").startswith("pkg:pypi/")
    }
    assert python == locked
    assert "pymysql" in python
    consul = output(["docker", "run", "--rm", "--network=none", BUILT, "consul", "version"])
    assert f"v{found['consul']['version']}" in consul
    assert "containerpilot" not in found
    rows = output(["docker", "run", "--rm", "--network=none", BUILT, "dpkg-query", "--show"]).splitlines()
    assert len([each for each in bill["components"] if "pkg:deb/" in each.get("purl", "")]) == len(rows)


def test_a_rerun_makes_the_same_in_place_of_what_was_there(released: tuple[Tree, str]) -> None:
    tree, _ = released
    sums = (tree.files / "SHA256SUMS").read_text()
    (tree.files / "stray").write_text("")
    shell(shlex.join(tree.command), env=tree.env, cwd=tree.root, seconds=200)
    assert not (tree.files / "stray").exists()
    assert (tree.files / "SHA256SUMS").read_text() == sums
