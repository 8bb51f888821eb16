"""What must agree before a release is made: version, changelog, code and work tree; and then what the image holds.

Each check returns its complaints, one line each that says what to do; none means that all is well.
"""

from __future__ import annotations

import datetime
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from containers import images
from containers.inventory import Inventory

_NUMBER = "(?:0|[1-9][0-9]*)"
# semver.org, without what follows a `+`, which no tag of an image can hold.
_PART = f"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(
    rf"(?P<series>{_NUMBER}\.{_NUMBER})r"
    rf"(?P<semantic>{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PART}(?:\.{_PART})*)?)"
)
_SECTION = re.compile(r"^## (.*)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
_MYSQL = re.compile(r"\bVer ([0-9]+\.[0-9]+)\.[0-9]+")


class ReleaseError(Exception):
    """No release can be made; each argument is one line that says what to do."""


@dataclass(frozen=True)
class Version:
    """A release: the series of its MySQL, and the semantic version of what is here."""

    series: str
    semantic: str

    def __str__(self) -> str:
        return f"{self.series}r{self.semantic}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version that a text names; ReleaseError."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ReleaseError(
                f"VERSION: must be <MySQL series>r<semantic version>, such as 9.7r1.0.0, not {text!r}"
            )
        return cls(**match.groupdict())

    @property
    def precedence(self) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
        """What orders semantic versions (semver.org, 11); the series does not count."""
        numbers, _, before = self.semantic.partition("-")
        parts = [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part)
            for part in (before.split(".") if before else [])
        ]
        return [int(number) for number in numbers.split(".")], not before, parts


def of_changelog(text: str, version: Version) -> list[str]:
    """Whether the newest section is this version's, dated, with something in it, and nothing waits above it."""
    wanted = f"`## {version} - YYYY-MM-DD`"
    sections = [(title.strip(), body.strip()) for title, body in _SECTION.findall(text)]
    if any(title == "Unreleased" and body for title, body in sections):
        return [f"CHANGELOG.md: there are lines under Unreleased: move them under {wanted}"]
    sections = [section for section in sections if section[0] != "Unreleased"]
    names = [(title.split() or [""])[0] for title, _ in sections]
    if str(version) not in names:
        return [f"CHANGELOG.md: no section for {version}: begin one with {wanted}"]
    complaints = []
    if names.count(str(version)) > 1:
        complaints.append(f"CHANGELOG.md: more than one section for {version}: leave one")
    place = names.index(str(version))
    if place:
        complaints.append(f"CHANGELOG.md: the section of {version} is below {names[0]}: move it to the top")
    title, body = sections[place]
    if not _dated(title, version):
        complaints.append(f"CHANGELOG.md: the heading `## {title}` has no date: make it {wanted}")
    if not body:
        complaints.append(f"CHANGELOG.md: nothing is written under {version}: say what has changed")
    for name in names[place + 1 :]:
        match = _VERSION.fullmatch(name)
        if match is None or Version(**match.groupdict()).precedence > version.precedence:
            complaints.append(f"CHANGELOG.md: {name} stands below {version} but is no older version")
    return complaints


def _dated(title: str, version: Version) -> bool:
    date = title.removeprefix(f"{version} - ")
    try:
        return datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        return False


def of_code(said: str, version: Version) -> list[str]:
    """Whether `manage.py --version`, which printed `said`, agrees."""
    if said.strip() == version.semantic:
        return []
    return [
        f"manage.py --version is {said.strip()}, not {version.semantic}: set it in bin/manager/__init__.py, "
        "or release that version"
    ]


def of_tree(root: Path, version: Version) -> list[str]:
    """Whether the work tree is what its last commit holds, and the version's tag, if there is one, names that."""
    if shutil.which("git") is None:
        return ["git is missing: install it"]
    try:
        top = git(root, "rev-parse", "--show-toplevel")
        head = git(root, "rev-parse", "--verify", "HEAD^{commit}")
    except images.ImageError as error:
        return [f"{root} is no work tree of git with a commit, release from a clone: {error}"]
    if Path(top).resolve() != root.resolve():
        return [f"{root} is no work tree of git, but lies in one ({top}): release from a clone"]
    complaints = []
    changed = git(root, "status", "--porcelain", "--untracked-files=normal").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        complaints.append(
            f"the work tree is not clean: commit or remove {changed[0].strip().split(None, 1)[1]}{more}"
        )
    if tagged(root, version):
        named = git(root, "rev-parse", f"refs/tags/{version}^{{commit}}")
        if named != head:
            complaints.append(
                f"the tag {version} names {named[:12]}, not {head[:12]}, which is checked out: "
                "check that out, or release a new version"
            )
    return complaints


def of_image(version: Version, label: str, held: Inventory) -> list[str]:
    """Whether an image with this label, which holds this, is what its version says."""
    complaints = []
    match = _MYSQL.search(held["mysql"])
    series = match[1] if match else held["mysql"].strip()
    if series != version.series:
        complaints.append(
            f"the image holds MySQL {series}, not {version.series}: release {series}r{version.semantic}, "
            "or build on a BASE_IMAGE that has the other"
        )
    if label != str(version):
        complaints.append(
            f"the image's label org.opencontainers.image.version is {label!r}: "
            "the Dockerfile must take it from VERSION"
        )
    return complaints + [f"in the image, {line}" for line in of_code(held["manage"], version)]


def before(root: Path, version: Version) -> list[str]:
    """Everything that can be said before an image is built."""
    said = images.run([sys.executable, str(root / "bin" / "manage.py"), "--version"])
    changelog = (root / "CHANGELOG.md").read_text()
    return of_code(said, version) + of_changelog(changelog, version) + of_tree(root, version)


def tagged(root: Path, version: Version) -> bool:
    """Whether git has a tag of this version."""
    return git(root, "tag", "--list", str(version)) != ""


def git(root: Path, *words: str) -> str:
    """Run git in a work tree and return what it prints; ImageError if it fails."""
    return images.run(["git", "-C", str(root), *words]).rstrip("\n")
