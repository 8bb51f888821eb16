"""A MariaDB server, and its fork of XtraBackup under XtraBackup's names: the real one is in no registry here."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql

from sandbox import servers
from sandbox.packages import program
from sandbox.processes import Process

ACCOUNT = "autopilot"  # the hooks' own, here without a password


def backup_words() -> list[str]:
    """What runs `mariadb-backup`, which takes XtraBackup's options."""
    return program("mariadb-backup", "usr/bin/mariadb-backup")


def stream_words() -> list[str]:
    """What runs `mbstream`, which is `xbstream` under another name."""
    return program("mariadb-backup", "usr/bin/mbstream")


def script(directory: Path, name: str, text: str) -> None:
    """Make a program out of a shell script."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def xtrabackup(directory: Path, version: str, text: str) -> None:
    """Make programs `xtrabackup` and `xbstream`: the first answers --version as Percona's does, else runs `text`.

    In it `"$@"` are its arguments, and `copy` is mariadb-backup.
    """
    answer = f"xtrabackup version {version}-1 based on MySQL server {version} Linux (x86_64) (revision id: 0)"
    asked = f'if [ "$1" = --version ]; then echo "{answer}" >&2; exit; fi'
    script(directory, "xtrabackup", f'copy() {{ {shlex.join(backup_words())} "$@"; }}\n{asked}\n{text}')
    script(directory, "xbstream", f'exec {shlex.join(stream_words())} "$@"')


@dataclass(frozen=True)
class MariaDB:
    """A running server."""

    process: Process
    datadir: Path
    socket: Path

    def connect(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(unix_socket=str(self.socket), user=ACCOUNT, autocommit=True, read_timeout=60)

    def sql(self, *statements: str) -> tuple[tuple[object, ...], ...]:
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return tuple(cursor.fetchall())

    def value(self, statement: str) -> str:
        return str(self.sql(statement)[0][0])


def _own(*paths: Path) -> None:
    subprocess.run(["chown", "-R", servers.server_user(), *map(str, paths)], check=True)


@contextlib.contextmanager
def running(directory: Path, *, address: str, server_id: int) -> Iterator[MariaDB]:
    """Run MariaDB on the data directory below `directory`, a new one if there is none."""
    words = program("mariadb-server-core", "usr/sbin/mariadbd")
    tree = Path(words[-1]).parents[2]
    share, datadir, run = tree / "usr/share/mysql", directory / "data", directory / "run"
    base = [*words, "--no-defaults", f"--basedir={tree / 'usr'}", f"--lc-messages-dir={share}"]
    base += [f"--datadir={datadir}", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"]
    # Not /tmp: each server that starts there removes the temporary tables of all others (seen).
    base += [f"--user={servers.server_user()}", f"--tmpdir={run}"]
    run.mkdir(parents=True, exist_ok=True)
    new = not datadir.exists()
    datadir.mkdir(exist_ok=True)
    _own(run, datadir)
    if new:
        tables = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")
        statements = [
            "CREATE DATABASE mysql;",
            "USE mysql;",
            *((share / name).read_text() for name in tables),
        ]
        statements += ["FLUSH PRIVILEGES;", f"CREATE USER {ACCOUNT}@localhost;"]
        statements += [f"GRANT ALL ON *.* TO {ACCOUNT}@localhost WITH GRANT OPTION;"]
        done = subprocess.run(
            [*base, "--bootstrap"], input="\n".join(statements), check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    command = [*base, f"--socket={run / 'mysqld.sock'}", f"--pid-file={run / 'mysqld.pid'}"]
    command += [
        f"--bind-address={address}",
        "--skip-name-resolve",
        "--log-bin=binlog",
        f"--server-id={server_id}",
    ]
    with servers.running_mysqld(command, directory / "mariadb.log", run / "mysqld.sock") as process:
        yield MariaDB(process, datadir, run / "mysqld.sock")
