"""What a release writes: the bill of materials, the sums, and all of it at once or not at all."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from containers import inventory, release, sbom
from containers.checks import ReleaseError, Version
from containers.inventory import Inventory

COMMITTED = datetime.datetime(2026, 11, 27, 5, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: GPL-2 with exception

Files: extra/*
License: BSD-3-clause
 A text with the word
 License: in it.

License: GPL-2 with exception
 Another.
"""
HELD: Inventory = {
    "mysql": "mysqld  Ver 9.7.4-2",
    "manage": "1.0.0",
    "distribution": "debian",
    "release": "forky",
    "debian": [
        {"name": "zlib1g", "version": "1:1.3+dfsg~1-1", "architecture": "amd64", "licenses": ["Zlib"]},
        {"name": "libc++1", "version": "1", "architecture": "all", "licenses": []},
    ],
    "python": [
        {"name": "PyMySQL", "version": "1.2.4", "expression": "MIT", "licenses": []},
        {"name": "prometheus_client", "version": "0.26.0", "expression": "", "licenses": ["B", "A", "A"]},
    ],
    "programs": [
        {"name": "consul", "version": "1.22.0", "sha256": "0" * 64},
        {"name": "containerpilot", "version": "3.8.0", "sha256": "1" * 64},
    ],
}


def bill(held: Inventory) -> sbom.Component:
    """The bill of what is held."""
    return sbom.document(held, name="some", version="9.7r1.0.0", commit="c" * 40, committed=COMMITTED)


def complaint(document: sbom.Component) -> str:
    """What the schema has against it."""
    return str(JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(document)) or "")


def test_the_bill_is_what_its_schema_says() -> None:
    assert complaint(bill(HELD)) == ""
    assert bill(HELD)["specVersion"] == "1.5"  # which the schema leaves open
    # The validator does see what is in there.
    wrong = bill(HELD)
    wrong["components"][-1]["licenses"] = [{"license": {"id": "no licence"}}]
    assert "no licence" in complaint(wrong)


def test_packages_and_programs_are_named_with_version_and_licence() -> None:
    found = {each["name"]: each for each in bill(HELD)["components"]}
    urls = {name: PackageURL.from_string(each["purl"]) for name, each in found.items() if "purl" in each}
    assert {name: (url.type, url.version) for name, url in urls.items()} == {
        "zlib1g": ("deb", "1:1.3+dfsg~1-1"),
        "libc++1": ("deb", "1"),
        "PyMySQL": ("pypi", "1.2.4"),
        "prometheus_client": ("pypi", "0.26.0"),
        "consul": ("generic", "1.22.0"),
        "containerpilot": ("generic", "3.8.0"),
    }
    assert urls["libc++1"].name == "libc++1"
    assert urls["zlib1g"].qualifiers == {"arch": "amd64", "distro": "forky"}
    for name, url in urls.items():
        assert url.to_string() == found[name]["purl"]
    assert found["PyMySQL"]["licenses"] == [{"expression": "MIT"}]
    assert found["prometheus_client"]["licenses"] == [{"license": {"name": each}} for each in "AB"]
    assert found["consul"]["licenses"] == [{"license": {"id": "BUSL-1.1"}}]
    assert found["containerpilot"]["licenses"] == [{"license": {"id": "MPL-2.0"}}]
    assert "licenses" not in found["libc++1"]


@pytest.mark.parametrize(
    ("version", "license"), [("1.8.7", "MPL-2.0"), ("1.16.9", "MPL-2.0"), ("1.17.0", "BUSL-1.1")]
)
def test_consul_changed_its_licence(version: str, license: str) -> None:
    held: Inventory = {**HELD, "programs": [{"name": "consul", "version": version, "sha256": "0" * 64}]}
    (found,) = [each for each in bill(held)["components"] if each["name"] == "consul"]
    assert found["licenses"] == [{"license": {"id": license}}]


def test_the_bill_is_sorted_and_has_the_time_of_the_commit() -> None:
    other: Inventory = {
        **HELD,
        "debian": HELD["debian"][::-1],
        "python": HELD["python"][::-1],
        "programs": HELD["programs"][::-1],
    }
    assert json.dumps(bill(other)) == json.dumps(bill(HELD))
    assert bill(HELD)["metadata"]["timestamp"] == "2026-11-27T04:00:00Z"


def test_licences_are_read_from_the_machine_readable_kind_of_file_only() -> None:
    assert inventory.debian_licenses(COPYRIGHT) == ["BSD-3-clause", "GPL-2 with exception"]
    assert inventory.debian_licenses(COPYRIGHT.partition("\n")[2]) == []


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Consul v1.8.7\nProtocol 2 spoken by default", "1.8.7"),
        ("Consul v1.22.0\nRevision 0a0b1c2d\nBuild Date 2025-10-24T12:00:00Z\n", "1.22.0"),
        ("Consul v1.20.0-rc1, something", "1.20.0-rc1"),
        ("Version: 3.8.0\nGitHash: 408dbc9\n", "3.8.0"),
    ],
)
def test_a_program_tells_its_version(said: str, version: str) -> None:
    assert inventory.told_version(said) == version


def test_a_program_that_tells_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no version in 'dev build'"):
        inventory.told_version("dev build")


# --- The build ----------------------------------------------------------------------------------


def test_the_image_is_built_anew_for_its_version_on_the_images_that_are_named() -> None:
    bases = {"BASE_IMAGE": "base:1", "CONSUL_IMAGE": "consul:1"}
    environ = {"CONTAINERPILOT_URL": "", "HOME": "/root"}
    command = release.build_command(Path("/source"), Version("9.7", "1.0.0"), bases, environ, cached=False)
    assert command == [
        "docker", "build", "--quiet", "--no-cache",
        "--build-arg=VERSION=9.7r1.0.0", "--build-arg=BASE_IMAGE=base:1", "--build-arg=CONSUL_IMAGE=consul:1",
        "--build-arg=CONTAINERPILOT_URL=", "/source",
    ]  # fmt: skip
    cached = release.build_command(Path("/source"), Version("9.7", "1.0.0"), bases, environ, cached=True)
    assert [word for word in command if word not in cached] == ["--no-cache"]


def test_what_publishes_it_is_left_to_a_person() -> None:
    version = Version("9.7", "1.0.0")
    assert release.publishing(version, "autopilot-mysql", "c0ffee", tagged=False) == [
        'git tag -a 9.7r1.0.0 -m "9.7r1.0.0" c0ffee',
        "git push origin 9.7r1.0.0",
        "docker tag autopilot-mysql:9.7r1.0.0 REGISTRY/autopilot-mysql:9.7r1.0.0",
        "docker push REGISTRY/autopilot-mysql:9.7r1.0.0",
    ]
    assert release.publishing(version, "host:5000/some", "c0ffee", tagged=True) == [
        "git push origin 9.7r1.0.0",
        "docker push host:5000/some:9.7r1.0.0",
    ]


# --- The files ----------------------------------------------------------------------------------


def test_the_sums_are_those_that_sha256sum_reads(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    release._write_sums(tmp_path)
    first, second = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert first == f"{hashlib.sha256(b'a').hexdigest()}  a"
    assert second.endswith("  b")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of all releases."""
    monkeypatch.setattr(release, "RELEASES", tmp_path / "build" / "release")
    return tmp_path / "build" / "release"


def test_what_a_run_has_not_published_is_gone_with_it_or_with_the_next(releases: Path) -> None:
    with release._work() as work:
        (work / "files").mkdir()
    assert [path.name for path in releases.iterdir()] == [".lock"]
    (releases / ".work" / "files").mkdir(parents=True)  # as kill -9 leaves it
    with release._work() as work:
        assert list(work.iterdir()) == []


def test_two_runs_at_once_are_kept_apart(releases: Path) -> None:
    with release._work() as work:
        with pytest.raises(ReleaseError, match="another release is being made here"), release._work():
            pass
        assert work.is_dir()


def test_the_results_of_an_earlier_run_are_replaced(releases: Path) -> None:
    for text in ("one", "two"):
        with release._work() as work:
            (work / "files").mkdir()
            (work / "files" / text).write_text(text)
            release._publish(work / "files", releases / "9.7r1.0.0")
    assert [path.name for path in (releases / "9.7r1.0.0").iterdir()] == ["two"]
    assert sorted(path.name for path in releases.iterdir()) == [".lock", "9.7r1.0.0"]
