"""Whether FAILOVER_ENGINE=mysqlrpladmin can work here: the tool, its Python, and what it makes of the server."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manager.discovery.record import Record
from manager.errors import ConfigError, SnapshotError
from manager.mysql import private
from manager.mysql.accounts import missing_accounts
from manager.mysql.connection import local
from manager.mysql.dialect import Dialect
from manager.mysql.initialise import complaint, initialise, installed, server_version
from manager.mysql.ownership import give_to_mysqld
from manager.rpladmin import NAME, call, usable, words
from manager.settings import Secret, Settings
from manager.snapshot.programs import LONGEST_LINE, version_text

TRIED_WITH = "5.6"
ACCOUNT = "trial"
HERE = "127.0.0.1"


def check(settings: Settings) -> None:
    """Refuse FAILOVER_ENGINE=mysqlrpladmin, as ConfigError, where it cannot work; my.cnf must be written already.

    Its only public version works with 5.6. Whether the one that is installed works with a later server is found
    out by a failover of a private one, which takes some seconds.
    """
    if settings.failover_engine != NAME:
        return
    version = _version(words(settings))
    server = server_version(settings)
    if server.startswith(TRIED_WITH):
        return
    plugins, wanted = Path(installed(settings)["plugin-dir"]), Dialect.of(server).semisync_plugins
    if settings.durability is None and all((plugins / name).exists() for name in wanted):
        raise ConfigError(f"FAILOVER_ENGINE: {NAME} needs DURABILITY=async, which is not the default here")
    if why := _trial(settings):
        raise ConfigError(f"FAILOVER_ENGINE: {NAME} {version} does not work with MySQL {server}: {why}")


def explain(settings: Settings, record: Record) -> str:
    """Return, for people, which engine a failover from here would use."""
    if settings.failover_engine != NAME:
        return settings.failover_engine
    try:
        return f"{NAME} {_version(usable(settings, record))}"
    except ConfigError as error:
        return f"native: {error}"


def _version(command: Sequence[str]) -> str:
    try:
        text = version_text(*command)
    except SnapshotError as error:
        raise ConfigError(f"FAILOVER_ENGINE: {error}") from None
    match = re.search(rf"{NAME} version (\S+)", text)
    if match is None:
        raise ConfigError(f"FAILOVER_ENGINE: {command[-1]} does not run: {complaint(text)[:LONGEST_LINE]}")
    return match[1]


def _trial(settings: Settings) -> str:
    """Let the tool fail a private replica over, and return why it cannot; nothing if it can."""
    datadir = settings.scratch_dir / f".trial-{settings.node_name}"
    trial = replace(
        settings,
        mysql_user=None,
        mysql_database=None,
        mysql_repl_user=ACCOUNT,
        mysql_repl_password=Secret(secrets.token_urlsafe(18)),
    )
    try:
        shutil.rmtree(datadir, ignore_errors=True)  # what a killed run has left
        datadir.mkdir(parents=True)
        give_to_mysqld(settings, datadir)
        with private.place(settings, datadir) as own:
            initialise(own)
            # By a socket the tool connects only at first (measured).
            port = _free_port()
            with private.server(
                own, ["--skip-networking=0", f"--bind-address={HERE}", f"--port={port}"]
            ) as server:
                if not server.answers():
                    return f"no private server starts: {server.said}"
                _become_replica(own, trial)
                if why := call(words(settings), trial, [f"{HERE}:{port}"]):
                    return why
                with local(own, timeout=5.0) as conn:
                    left = conn.row(Dialect.of(conn.version).replica_status)
                return "it leaves the new primary with a source" if left else ""
    finally:
        shutil.rmtree(datadir, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


def _become_replica(own: Settings, trial: Settings) -> None:
    """Make the private server a replica of nobody, with the account that the tool would have."""
    with local(own, timeout=10.0) as conn:
        dialect = Dialect.of(conn.version)
        missing_accounts(conn, trial)
        sql, values = dialect.change({"HOST": HERE, "PORT": 1, "USER": ACCOUNT, "AUTO_POSITION": 1})
        conn.run(sql, values)
        conn.run(dialect.start_applier)
