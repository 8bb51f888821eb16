"""What must agree before a release is made, and which line says what does not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from containers import checks, release
from containers.checks import ReleaseError, Version
from containers.inventory import Inventory
from manager import __version__
from tests.documents import ROOT

VERSION = Version("9.7", "1.1.0")
CHANGELOG = """\
# Changelog

Text.

## Unreleased

## 9.7r1.1.0 - 2026-11-27

* A change.

## 8.4r1.1.0 - 2026-11-26

* The same, for another server.

## 9.7r1.1.0-rc.2 - 2026-11-01

* One before it.
"""
HELD: Inventory = {
    "mysql": "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n",
    "manage": "1.1.0\n",
    "distribution": "debian",
    "release": "forky",
    "debian": [],
    "python": [],
    "programs": [],
}


# --- The version --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["9.7r1.0.0", "8.4r0.10.2", "9.7r1.0.0-rc.1", "10.11r2.0.0-0a.-"])
def test_a_version_is_read(text: str) -> None:
    assert str(Version.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "1.0.0", "9.7", "9.7r1.0", "9.7.4r1.0.0", "v9.7r1.0.0", "9.7r1.0.0\n", " 9.7r1.0.0", "9.7R1.0.0",
     "9.7r1.0.0+1", "9.7r01.0.0", "09.7r1.0.0", "9.7r1.0.0-", "9.7r1.0.0-01", "9.7r1.0.0-a..b", "9.7r1.0.٣",
     "--force", "latest"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"^VERSION: must be .* such as 9\.7r1\.0\.0, not ") as refused:
        Version.parse(text)
    assert repr(text) in str(refused.value)


def test_semantic_versions_are_in_the_order_of_their_specification() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
               "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0"]  # fmt: skip
    shuffled = sorted(ordered, key=str)
    assert shuffled != ordered
    assert sorted(shuffled, key=lambda each: Version.parse(f"9.7r{each}").precedence) == ordered


# --- The changelog ------------------------------------------------------------------------------


def test_a_finished_changelog_is_fine() -> None:
    assert checks.of_changelog(CHANGELOG, VERSION) == []
    assert checks.of_changelog(CHANGELOG.replace("## Unreleased\n\n", ""), VERSION) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("## Unreleased\n", "## Unreleased\n\n* More.\n", "there are lines under Unreleased: move them under `##"),
        ("## 9.7r1.1.0 -", "## 9.7r1.1.1 -", "no section for 9.7r1.1.0: begin one with `## 9.7r1.1.0 - YYYY"),
        ("## 9.7r1.1.0 - 2026-11-27", "## 9.7r1.1.0", "the heading `## 9.7r1.1.0` has no date"),
        ("## 9.7r1.1.0 - 2026-11-27", "## 9.7r1.1.0 - 2026-02-30", "2026-02-30` has no date"),
        ("## 9.7r1.1.0 - 2026-11-27", "## 9.7r1.1.0 - 20261127", "20261127` has no date"),
        ("## 9.7r1.1.0 - 2026-11-27", "## 9.7r1.1.0 of 2026-11-27", "has no date: make it `## 9.7r1.1.0 -"),
        ("* A change.\n", "", "nothing is written under 9.7r1.1.0"),
        ("8.4r1.1.0", "8.4r1.2.0", "8.4r1.2.0 stands below 9.7r1.1.0 but is no older version"),
        ("8.4r1.1.0", "1.0", "1.0 stands below 9.7r1.1.0 but is no older version"),
    ],
)  # fmt: skip
def test_an_unfinished_changelog_is_told_in_one_line(old: str, new: str, complaint: str) -> None:
    assert old in CHANGELOG
    (line,) = checks.of_changelog(CHANGELOG.replace(old, new, 1), VERSION)
    assert complaint in line
    assert line.startswith("CHANGELOG.md: ")


def test_a_section_below_a_newer_one_is_told() -> None:
    newer = CHANGELOG.replace("## 9.7r1.1.0 -", "## 9.7r1.2.0 - 2026-12-01\n\n* New.\n\n## 9.7r1.1.0 -", 1)
    assert checks.of_changelog(newer, VERSION) == [
        "CHANGELOG.md: the section of 9.7r1.1.0 is below 9.7r1.2.0: move it to the top"
    ]


def test_two_sections_of_one_version_are_told() -> None:
    lines = checks.of_changelog(CHANGELOG.replace("9.7r1.1.0-rc.2", "9.7r1.1.0"), VERSION)
    assert lines == ["CHANGELOG.md: more than one section for 9.7r1.1.0: leave one"]


# --- The code -----------------------------------------------------------------------------------


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "manager.__version__"}}
    assert Version.parse(f"9.7r{__version__}").semantic == __version__


@pytest.mark.parametrize("environ", [{}, {"DURABILITY": "none of them"}])
def test_manage_py_tells_its_version_without_any_setting_and_with_bad_ones(environ: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "bin" / "manage.py"), "--version"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_another_version_of_the_code_is_told() -> None:
    assert checks.of_code("1.1.0\n", VERSION) == []
    (line,) = checks.of_code("1.0.0\n", VERSION)
    assert line.startswith("manage.py --version is 1.0.0, not 1.1.0: set it in bin/manager/__init__.py")


# --- The work tree ------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clean work tree with one commit."""
    root = tmp_path / "tree"
    (root / "bin" / "manager").mkdir(parents=True)
    (root / "a").write_text("a\n")
    (root / ".gitignore").write_text("__pycache__/\n/build/\n")
    commit(root, "init", "--quiet")
    commit(root, "add", "--all")
    commit(root, "commit", "--quiet", "--message", "one")
    return root


def commit(root: Path, *words: str) -> None:
    """Run git as somebody."""
    somebody = ["-c", "user.name=Some Body", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", "-C", str(root), *somebody, *words], check=True, capture_output=True)


def test_a_clean_tree_is_fine_with_what_git_ignores(tree: Path) -> None:
    (tree / "build").mkdir()
    (tree / "build" / "x").write_text("x")
    assert checks.of_tree(tree, VERSION) == []


def test_what_is_not_committed_is_told(tree: Path) -> None:
    (tree / "a").write_text("b\n")
    assert checks.of_tree(tree, VERSION) == ["the work tree is not clean: commit or remove a"]
    (tree / "new file").write_text("")
    assert checks.of_tree(tree, VERSION) == ["the work tree is not clean: commit or remove a and 1 more"]
    commit(tree, "add", "--all")
    assert checks.of_tree(tree, VERSION) != []


@pytest.mark.parametrize("kind", [(), ("--annotate", "--message", "it")])
def test_a_tag_may_only_name_what_is_checked_out(tree: Path, kind: tuple[str, ...]) -> None:
    assert not checks.tagged(tree, VERSION)
    commit(tree, "tag", *kind, str(VERSION))
    assert checks.tagged(tree, VERSION)
    assert checks.of_tree(tree, VERSION) == []
    commit(tree, "commit", "--quiet", "--allow-empty", "--message", "two")
    (line,) = checks.of_tree(tree, VERSION)
    assert re.match(r"the tag 9\.7r1\.1\.0 names [0-9a-f]{12}, not [0-9a-f]{12}, which is checked out", line)


def test_what_is_no_work_tree_is_told(tree: Path) -> None:
    (line,) = checks.of_tree(tree / "bin", VERSION)
    assert "lies in one" in line
    shutil.rmtree(tree / ".git")
    (line,) = checks.of_tree(tree, VERSION)
    assert f"{tree} is no work tree of git" in line
    commit(tree, "init", "--quiet")
    (line,) = checks.of_tree(tree, VERSION)
    assert "with a commit" in line


def test_a_host_without_git_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tree))
    assert checks.of_tree(tree, VERSION) == ["git is missing: install it"]


# --- The image ----------------------------------------------------------------------------------


def test_an_image_that_agrees_is_fine() -> None:
    assert checks.of_image(VERSION, "9.7r1.1.0", HELD) == []


def test_an_image_of_another_series_is_told() -> None:
    (line,) = checks.of_image(Version("8.4", "1.1.0"), "8.4r1.1.0", HELD)
    assert line.startswith("the image holds MySQL 9.7, not 8.4: release 9.7r1.1.0, or build on ")
    assert len(checks.of_image(VERSION, "9.7r1.1.0", {**HELD, "mysql": "something else"})) == 1


def test_an_image_with_another_label_or_code_is_told() -> None:
    label, code = checks.of_image(VERSION, "unreleased", {**HELD, "manage": "1.0.0\n"})
    assert "version is 'unreleased': the Dockerfile" in label
    assert code.startswith("in the image, manage.py --version is 1.0.0, not 1.1.0")


# --- The command --------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "ROOT", tree)
    shutil.copytree(ROOT / "bin", tree / "bin", dirs_exist_ok=True)
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n* A change.\n")
    assert release.main(["--version", "9.7r0.9.0", "--image", "host:5000/some"]) == 1
    code, changelog, unclean = capsys.readouterr().err.splitlines()
    assert code.startswith(f"release: manage.py --version is {__version__}, not 0.9.0")
    assert changelog == (
        "release: CHANGELOG.md: there are lines under Unreleased: move them under `## 9.7r0.9.0 - YYYY-MM-DD`"
    )
    assert unclean.startswith("release: the work tree is not clean")
    assert not (tree / "build").exists()


@pytest.mark.parametrize("image", ["autopilot-mysql:1", "host:5000/autopilot-mysql:1", "a@sha256:00"])
def test_a_name_with_a_tag_is_refused(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--version", "9.7r1.1.0", "--image", image]) == 1
    assert capsys.readouterr().err.startswith("release: IMAGE: must be a name without a tag")
