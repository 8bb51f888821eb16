"""Percona XtraBackup as a program: which one is here, which servers it fits, its command lines, its files.

Options and file names are those of Percona's manuals for 2.4, 8.0 and 8.4 (tests/unit/xtrabackup_options.json).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from manager.errors import SnapshotError
from manager.gtid import GtidSet
from manager.settings import Settings
from manager.snapshot import programs

EXTRA = "info"
INFO = "xtrabackup_info"
PREPARE_MEMORY = "128M"
PARALLEL = 2

Series = tuple[int, int]

# Percona's manuals, "Server versions"; from 8.0 on each series copies its own.
_OLD: dict[Series, tuple[Series, ...]] = {
    (2, 3): ((5, 5), (5, 6)),
    (2, 4): ((5, 5), (5, 6), (5, 7)),
}
_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)\S*(?: based on MySQL server (\d+)\.(\d+)\.(\d+))?")
_POSITION = re.compile(r"GTID of the last change '([^']*)'")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of XtraBackup, and that of the server whose source it was built from."""

    series: Series
    based_on: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """The programs' paths. `old` tells that it is `innobackupex`, which came before `xtrabackup` could do all."""

    path: str
    xbstream: str
    old: bool
    version: Version


def find(settings: Settings) -> Tool:
    """Return the XtraBackup that is installed, in MYSQL_BINDIR or in PATH; SnapshotError if there is none."""
    new = programs.find(settings, "xtrabackup")
    path = new or programs.find(settings, "innobackupex")
    if path is None:
        raise SnapshotError("there is no program xtrabackup")
    xbstream = programs.find(settings, "xbstream")
    if xbstream is None:
        raise SnapshotError("there is no program xbstream")
    return Tool(
        path=path, xbstream=xbstream, old=new is None, version=parse_version(programs.version_text(path))
    )


def parse_version(text: str) -> Version:
    """Read `... version 8.0.35-31 based on MySQL server 8.0.35 ...`. Pure; SnapshotError if it is something else."""
    match = _VERSION.search(text)
    if match is None:
        raise SnapshotError(f"{text.strip()[:100]!r} is no version of Percona XtraBackup")
    major, minor, patch = (int(number) for number in match.groups()[:3])
    # From 8.0 on its own number is that of the server.
    based = tuple(int(number) for number in match.groups()[3:]) if match[4] else (major, minor, patch)
    return Version(series=(major, minor), based_on=(based[0], based[1], based[2]))


def misfit(version: Version, server: str) -> str:
    """Return why this XtraBackup cannot copy, or prepare the copy of, a server of that version, or nothing. Pure."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)(?!.*MariaDB)", server.removeprefix("5.5.5-"))
    if match is None:
        return f"XtraBackup does not copy {server}"
    found = (int(match[1]), int(match[2]), int(match[3]))
    copied = _OLD.get(version.series, (version.series,))
    own = ".".join(map(str, version.series))
    if found[:2] not in copied:
        series = ", ".join(f"{major}.{minor}" for major, minor in copied)
        return f"XtraBackup {own} copies servers {series}, not {server}"
    if version.series == (8, 0) and found > version.based_on:
        based = ".".join(map(str, version.based_on))
        return f"this XtraBackup {own} copies servers up to {based}, not {server}: install a newer one"
    return ""


def backup_command(
    found: Tool, options: Path, directory: Path, *, datadir: Path, socket: Path, user: str
) -> list[str]:
    """Return the words that stream a copy to standard output; what it needs on the way goes into `directory`."""
    target = str(directory / "target")
    command = [found.path, f"--defaults-file={options}"]  # must be the first
    command += [] if found.old else ["--backup", f"--target-dir={target}"]
    command += [
        "--stream=xbstream",
        f"--tmpdir={directory}",
        f"--extra-lsndir={directory / EXTRA}",
        f"--parallel={PARALLEL}",
        f"--socket={socket}",
        f"--user={user}",
    ]
    return [*command, target] if found.old else [*command, f"--datadir={datadir}"]


def unpack_command(found: Tool, datadir: Path) -> list[str]:
    """Return the words that write the files of a stream, from standard input."""
    return [found.xbstream, "-x", "-C", str(datadir)]


def prepare_command(found: Tool, datadir: Path) -> list[str]:
    """Return the words that make unpacked files consistent."""
    memory = f"--use-memory={PREPARE_MEMORY}"
    if found.old:
        return [found.path, "--apply-log", memory, str(datadir)]
    return [found.path, "--prepare", memory, f"--target-dir={datadir}"]


def position(text: str) -> GtidSet:
    """Return the GTID set that its info file, or what XtraBackup has printed, names; empty without one. Pure.

    Long sets span lines. SnapshotError if what stands there is no GTID set.
    """
    match = _POSITION.search(text)
    try:
        return GtidSet.parse(match[1].replace("\n", "")) if match else GtidSet()
    except ValueError as error:
        raise SnapshotError(f"xtrabackup names a GTID set that is none: {error}") from None


def is_own_file(name: str) -> bool:
    """True for the name of a file of XtraBackup's own, at the top of a copy, which is none of the server's."""
    return name.startswith("xtrabackup_") or name == "backup-my.cnf"
