"""The engine `xtrabackup`, as far as no server is needed: versions, command lines, positions, names of files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from manager.errors import SnapshotDamaged, SnapshotError
from manager.gtid import GtidSet
from manager.snapshot.engines import xtrabackup, xtrabackup_tool
from manager.snapshot.engines.xtrabackup_tool import Tool, misfit, parse_version, position

ONE, TWO = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
# The options of Percona's manuals that bear on a copy of a whole server, by version.
DOCUMENTED: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("xtrabackup_options.json").read_text()
)
SAID = {
    "2.3": "innobackupex version 2.3.10 Linux (x86_64) (revision id: bd0d4403f36)",
    "2.4": "xtrabackup: recognized server arguments: --datadir=/d\n"
    "xtrabackup version 2.4.29 based on MySQL server 5.7.44 Linux (x86_64) (revision id: 2e6c0951)",
    "8.0": "2024-05-01T10:00:00.000000-00:00 0 [Note] [MY-011825] [Xtrabackup] recognized server arguments: \n"
    "xtrabackup version 8.0.35-31 based on MySQL server 8.0.35 Linux (x86_64) (revision id: 55ec21d7)",
    "8.4": "xtrabackup version 8.4.0-1 based on MySQL server 8.4.0 Linux (x86_64) (revision id: da6e1abd)",
    "9.1": "xtrabackup version 9.1.0-1 based on MySQL server 9.1.0 Linux (x86_64) (revision id: bd2a6c52)",
}


@pytest.mark.parametrize(
    ("tool", "server", "why"),
    [
        ("2.3", "5.5.62-log", ""),
        ("2.3", "5.6.24-log", ""),
        ("2.3", "5.7.22", "XtraBackup 2.3 copies servers 5.5, 5.6, not 5.7.22"),
        ("2.4", "5.5.62", ""),
        ("2.4", "5.6.51-91.0-log", ""),
        ("2.4", "5.7.44-48", ""),
        ("2.4", "8.0.15", "XtraBackup 2.4 copies servers 5.5, 5.6, 5.7, not 8.0.15"),
        ("8.0", "5.7.44", "XtraBackup 8.0 copies servers 8.0, not 5.7.44"),
        ("8.0", "8.0.15", ""),
        ("8.0", "8.0.35-27", ""),
        ("8.0", "8.0.36", "this XtraBackup 8.0 copies servers up to 8.0.35, not 8.0.36: install a newer one"),
        ("8.0", "8.4.0", "XtraBackup 8.0 copies servers 8.0, not 8.4.0"),
        ("8.4", "8.0.35", "XtraBackup 8.4 copies servers 8.4, not 8.0.35"),
        ("8.4", "8.4.0", ""),
        ("8.4", "8.4.6-6", ""),
        ("8.4", "9.7.4-2", "XtraBackup 8.4 copies servers 8.4, not 9.7.4-2"),
        ("9.1", "9.1.0-commercial", ""),
        ("9.1", "9.2.0", "XtraBackup 9.1 copies servers 9.1, not 9.2.0"),
        ("9.1", "8.4.0", "XtraBackup 9.1 copies servers 9.1, not 8.4.0"),
        ("2.4", "5.5.5-10.11.18-MariaDB-log", "XtraBackup does not copy 5.5.5-10.11.18-MariaDB-log"),
        ("2.4", "5.5.64-MariaDB", "XtraBackup does not copy 5.5.64-MariaDB"),
    ],
)
def test_which_servers_it_copies(tool: str, server: str, why: str) -> None:
    assert misfit(parse_version(SAID[tool]), server) == why


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(SnapshotError, match="'sh: not found' is no version of Percona XtraBackup"):
        parse_version("sh: not found\n")


@pytest.mark.parametrize("series", sorted(DOCUMENTED))
def test_its_command_lines_are_made_of_documented_options(series: str) -> None:
    name = "xtrabackup" if "xtrabackup" in DOCUMENTED[series] else "innobackupex"
    tool = Tool(
        path=f"/bin/{name}",
        xbstream="/bin/xbstream",
        old=name == "innobackupex",
        version=parse_version(SAID[series]),
    )
    scratch, datadir = Path("/scratch"), Path("/data")
    backup = xtrabackup_tool.backup_command(
        tool, scratch / "options.cnf", scratch, datadir=datadir, socket=Path("/run/s.sock"), user="autopilot"
    )
    prepare = xtrabackup_tool.prepare_command(tool, datadir)
    unpack = xtrabackup_tool.unpack_command(tool, datadir)
    for command in (backup, prepare, unpack):
        options = {word.partition("=")[0] for word in command[1:] if word.startswith("-")}
        assert options <= set(DOCUMENTED[series][Path(command[0]).name])
    assert backup[1] == "--defaults-file=/scratch/options.cnf", "the manual: it must be the first option"
    assert {"--stream=xbstream", "--socket=/run/s.sock", "--user=autopilot"} < set(backup)
    assert not any("password" in word or "version-check" in word for word in backup)
    if name == "xtrabackup":
        assert {"--backup", "--target-dir=/scratch/target", "--datadir=/data"} < set(backup)
        assert prepare[1:] == ["--prepare", "--use-memory=128M", "--target-dir=/data"]
    else:
        assert backup[-1] == "/scratch/target"
        assert prepare[1:] == ["--apply-log", "--use-memory=128M", "/data"]
    assert unpack == ["/bin/xbstream", "-x", "-C", "/data"]


@pytest.mark.parametrize(
    ("text", "gtid"),
    [
        (
            f"binlog_pos = filename 'b.000002', position '8', GTID of the last change '{ONE}:1-5'\n",
            f"{ONE}:1-5",
        ),
        (
            f"binlog_pos = filename 'b.000002', position '8', GTID of the last change '{ONE}:1-5:7,\n{TWO}:1-9'\n"
            "innodb_from_lsn = 0\n",
            f"{ONE}:1-5:7,{TWO}:1-9",
        ),
        ("binlog_pos = filename 'b.000002', position '8', GTID of the last change ''\n", ""),
        ("binlog_pos = filename 'b.000002', position '8'\n", ""),
        ("", ""),
    ],
)
def test_the_position_of_a_copy(text: str, gtid: str) -> None:
    assert position(f"tool_name = xtrabackup\n{text}") == GtidSet.parse(gtid)


def test_a_position_that_is_none() -> None:
    with pytest.raises(SnapshotError, match="names a GTID set that is none"):
        position("binlog_pos = filename 'b', position '8', GTID of the last change '0-1-3'")


def test_the_position_is_in_the_info_file_or_was_said(tmp_path: Path) -> None:
    said = f"MySQL binlog position: filename 'b', position '8', GTID of the last change '{ONE}:1-3'"
    assert str(xtrabackup.read_position(tmp_path, said)) == f"{ONE}:1-3"
    (tmp_path / "info").mkdir()
    info = tmp_path / "info" / "xtrabackup_info"
    info.write_text(f"binlog_pos = filename 'b', position '9', GTID of the last change '{ONE}:1-4'\n")
    assert str(xtrabackup.read_position(tmp_path, said)) == f"{ONE}:1-4"
    info.write_text("")
    with pytest.raises(
        SnapshotError, match=r"SCRATCH_DIR: xtrabackup could not write .*xtrabackup_info: .*room"
    ):
        xtrabackup.read_position(tmp_path, said)
    info.write_text("binlog_pos = filename 'b', position '9'\n")
    with pytest.raises(SnapshotError, match=r"names no GTID set .* gtid_mode=ON"):
        xtrabackup.read_position(tmp_path, said)


def test_the_option_file_is_for_nobody_else(tmp_path: Path) -> None:
    conf = tmp_path / "my.cnf"
    before = os.umask(0)
    try:
        path = xtrabackup.write_options(tmp_path, conf, 'a"b\\c#')
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == '[xtrabackup]\npassword = "a\\"b\\\\c#"\n'
    path.unlink()
    conf.write_text("[mysqld]\n")
    assert xtrabackup.write_options(tmp_path, conf, None).read_text() == f"!include {conf}\n"
    with pytest.raises(SnapshotError, match="SCRATCH_DIR: cannot write .*: File exists"):
        xtrabackup.write_options(tmp_path, conf, None)


def _symlink(datadir: Path) -> None:
    (datadir / "app" / "t.ibd").symlink_to("/etc/passwd")


def _directory_symlink(datadir: Path) -> None:
    (datadir / "other").symlink_to("/etc")


def _fifo(datadir: Path) -> None:
    os.mkfifo(datadir / "fifo")


def _hidden(datadir: Path) -> None:
    (datadir / ".autopilot.json").write_text("{}")


def _hidden_directory(datadir: Path) -> None:
    (datadir / ".rocksdb").mkdir()


def _link_file(datadir: Path) -> None:
    (datadir / "app" / "t.isl").write_text("/elsewhere/app/t.ibd")


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (_symlink, "'app/t.ibd', which is neither a file nor a directory"),
        (_directory_symlink, "'other', which is neither a file nor a directory"),
        (_fifo, "'fifo', which is neither a file nor a directory"),
        (_hidden, "'.autopilot.json', which is no name for a file of the database"),
        (_hidden_directory, "'.rocksdb', which is no name for a file of the database"),
        (_link_file, "'app/t.isl': a table's file outside the data directory"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_what_no_data_directory_holds(tmp_path: Path, put: object, why: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "t.ibd.old").write_text("")
    (tmp_path / "app" / ".hidden").write_text("")
    (tmp_path / ".autopilot-building").write_text("")
    xtrabackup._check_tree(tmp_path, {".autopilot-building"})
    assert callable(put)
    put(tmp_path)
    with pytest.raises(SnapshotDamaged) as caught:
        xtrabackup._check_tree(tmp_path, {".autopilot-building"})
    assert str(caught.value) == f"it holds {why}"


def test_every_file_of_a_copy_gets_its_mode(tmp_path: Path) -> None:
    for name, mode in (("app/t.ibd", 0o666), ("ibdata1", 0o600), (".autopilot-building", 0o600)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(mode)
    (tmp_path / "app").chmod(0o777)
    xtrabackup._sync(tmp_path, {".autopilot-building"})
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {"app": "0o750", "t.ibd": "0o640", "ibdata1": "0o640", ".autopilot-building": "0o600"}


def _readable_as(uid: int, datadir: Path) -> bool:
    """What another OS user finds; asked in a process of its own."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        os._exit(1 if xtrabackup._unreadable(datadir) else 0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_files_that_the_hooks_may_not_read() -> None:
    datadir = Path(tempfile.mkdtemp(prefix="autopilot-unreadable-"))
    try:
        (datadir / "ibdata1").touch(mode=0o640)
        os.chown(datadir, 2, 2)
        os.chown(datadir / "ibdata1", 2, 2)
        assert _readable_as(2, datadir)
        assert not _readable_as(1, datadir)
        datadir.chmod(0o755)
        assert not _readable_as(1, datadir)
        (datadir / "ibdata1").chmod(0o644)
        assert _readable_as(1, datadir)
        datadir.chmod(0o711)
        assert not _readable_as(1, datadir)
        assert xtrabackup._unreadable(datadir) == "", "root reads everything"
        (datadir / "ibdata1").unlink()
        assert xtrabackup._unreadable(datadir) == (
            f"{datadir} cannot be read: run the hooks as root or as mysqld's OS user"
        )
    finally:
        shutil.rmtree(datadir)
