"""Where the sandbox looks for its cache, and which mirror it takes the servers from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox import mysqls
from sandbox.packages import Packages, PackagesError, cache_directory, debian_mirror

DEB822 = """\
# a comment: with a colon
Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    return tmp_path


def test_the_mirror_of_the_release_itself_is_taken(etc: Path) -> None:
    (etc / "apt" / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert debian_mirror(etc) == "http://mirror.invalid/debian"


@pytest.mark.parametrize(
    "line",
    [
        "deb http://mirror.invalid/debian bookworm main",
        "deb [arch=amd64 signed-by=/a/key.gpg] http://mirror.invalid/debian bookworm main contrib  # comment",
    ],
)
def test_the_one_line_format_is_read(etc: Path, line: str) -> None:
    other = "deb http://other.invalid/apt stable main\n# deb http://no.invalid/debian bookworm main\n"
    (etc / "apt" / "sources.list").write_text(other + line + "\n")
    assert debian_mirror(etc) == "http://mirror.invalid/debian"


def test_a_disabled_source_is_not_taken(etc: Path) -> None:
    (etc / "apt" / "sources.list.d" / "debian.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\n"
    )
    with pytest.raises(PackagesError, match="no apt source of this host names a mirror for Debian bookworm"):
        debian_mirror(etc)


def test_another_distribution_is_refused(etc: Path) -> None:
    (etc / "os-release").write_text("ID=other\nVERSION_CODENAME=nice\n")
    with pytest.raises(PackagesError, match="run it on Debian 12 or newer"):
        debian_mirror(etc)


def test_the_cache_can_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPILOT_CACHE", "/somewhere/cache")
    assert cache_directory() == Path("/somewhere/cache")


def test_an_ordinary_user_has_a_cache_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPILOT_CACHE", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_directory() == Path("/home/somebody/.cache/autopilot-mysql")


def test_a_mysql_server_of_ones_own(packages: Packages, tmp_path: Path) -> None:
    """Its own programs, and the default server's in place of those that it lacks."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mysqld").symlink_to(packages.cache / "mysql" / "bin" / "mysqld")
    own = mysqls.chosen(str(tmp_path))
    try:
        assert own.mysql == tmp_path
        assert (own.mysql_bindir / "mysqld").readlink() == tmp_path / "bin" / "mysqld"
        assert (own.mysql_bindir / "mysqlbinlog").exists()
        assert mysqls.version(own) >= (9, 7, 0)
    finally:
        shutil.rmtree(own.mysql_bindir.parent)


def test_what_is_no_mysql_server_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANDBOX_MYSQL", str(tmp_path))
    with pytest.raises(
        PackagesError, match="SANDBOX_MYSQL: must be 5.6, 5.7, 8.0, 9.7 or a directory with bin/mysqld"
    ):
        mysqls.chosen()
