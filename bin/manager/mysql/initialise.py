"""Making a new database, and asking mysqld for its version."""

from __future__ import annotations

import logging
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from manager.errors import AutopilotError, ConfigError
from manager.settings import Settings

LOG = logging.getLogger(__name__)

ZONES = Path("/usr/share/zoneinfo")
INITIALISE_TIME = 600.0
ZONES_TIME = 60.0
VERSION_TIME = 10.0


def is_database(datadir: Path) -> bool:
    """True if the directory holds a database, whoever made it."""
    return (datadir / "mysql").is_dir()


def server_version(settings: Settings) -> str:
    """Return the version of the mysqld that is installed, as `9.7.4-2`; ConfigError if there is none."""
    text = _run([program(settings, "mysqld"), "--version"], VERSION_TIME)
    match = re.search(r"Ver (\S+)", text)
    if not match:
        raise ConfigError(f"mysqld --version says {text.strip()!r}, which is no version of MySQL")
    return match[1]


def program(settings: Settings, name: str) -> str:
    """Return the path of one of MySQL's programs; ConfigError if it is not there."""
    found = shutil.which(name, path=str(settings.mysql_bindir) if settings.mysql_bindir else None)
    if found is None:
        where = f"in {settings.mysql_bindir}" if settings.mysql_bindir else "in PATH"
        raise ConfigError(f"MYSQL_BINDIR: there is no {name} {where}")
    return found


def initialise(settings: Settings) -> None:
    """Make an empty database with root@localhost without a password, time zones included.

    my.cnf must be written already: what cannot be changed later, such as the page size, is taken from there.
    The data directory must be empty but for names that begin with a dot. Nothing of this is in a binlog.
    """
    with tempfile.TemporaryDirectory(prefix="initialise-", dir=settings.run_dir) as scratch:
        zones = Path(scratch) / "zones.sql"
        zones.write_text("SET SESSION sql_log_bin = 0;\nUSE mysql;\n" + _zones(settings))
        if os.geteuid() == 0:
            owner = pwd.getpwnam(settings.mysql_user_os)
            for path in (scratch, zones, settings.mysql_datadir):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [
            program(settings, "mysqld"),
            f"--defaults-file={settings.mysql_conf}",
            "--initialize-insecure",
            f"--init-file={zones}",
        ]
        LOG.info("initialising an empty database in %s", settings.mysql_datadir)
        _run(command, INITIALISE_TIME)


def _zones(settings: Settings) -> str:
    """The statements that load the host's time zones; without them there is a warning and no named zone."""
    if not ZONES.is_dir():
        LOG.warning("there is no %s: MySQL will know no named time zones", ZONES)
        return ""
    try:
        return _run([program(settings, "mysql_tzinfo_to_sql"), str(ZONES)], ZONES_TIME)
    except AutopilotError as error:
        LOG.warning("MySQL will know no named time zones: %s", error)
        return ""


def _run(command: list[str], seconds: float) -> str:
    """Return the program's standard output; AutopilotError with the last line of what it complained about."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise AutopilotError(f"{name} did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise ConfigError(f"cannot run {name}: {error.strerror}") from None
    if done.returncode:
        raise AutopilotError(f"{name} failed ({done.returncode}): {complaint(done.stderr)}")
    return done.stdout


def complaint(text: str) -> str:
    """Return the line of what a program has printed that says why it failed. Pure."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line]
    # The first error is the cause; "Aborting" follows.
    return (errors or lines[-1:] or ["it said nothing"])[0].strip()
