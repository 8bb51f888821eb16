"""Making a new database, and asking mysqld for its version."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from manager.errors import AutopilotError, ConfigError
from manager.mysql.ownership import give_to_mysqld
from manager.settings import Settings

LOG = logging.getLogger(__name__)

ZONES = Path("/usr/share/zoneinfo")
INITIALISE_TIME = 600.0
ZONES_TIME = 60.0
VERSION_TIME = 10.0
SYSTEM_SCRIPTS = ("mysql_system_tables.sql", "mysql_system_tables_data.sql", "fill_help_tables.sql")


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


def upgraded_to(datadir: Path) -> str:
    """Return the version for which mysql_upgrade, or an 8.0 itself, says it has upgraded this database; or nothing."""
    try:
        found = re.match(r"\d+\.\d+\.\d+", (datadir / "mysql_upgrade_info").read_text(errors="replace"))
    except OSError:
        return ""
    return found[0] if found else ""


def program(settings: Settings, name: str) -> str:
    """Return the path of one of MySQL's programs; ConfigError if it is not there."""
    found = shutil.which(name, path=str(settings.mysql_bindir) if settings.mysql_bindir else None)
    if found is None:
        where = f"in {settings.mysql_bindir}" if settings.mysql_bindir else "in PATH"
        raise ConfigError(f"MYSQL_BINDIR: there is no {name} {where}")
    return found


def installed(settings: Settings) -> dict[str, str]:
    """Return what options the installed mysqld knows, by their names as `plugin-dir`, each with its value in my.cnf.

    my.cnf must be written already. ConfigError if mysqld does not say; a wrong option in my.cnf is no error here.
    """
    # Without being asked for help it would start; 5.7 also says 1 where my.cnf has an option that it does not know.
    command = [program(settings, "mysqld"), f"--defaults-file={settings.mysql_conf}"]
    # Even so 5.6 makes an index of binlogs in its data directory.
    with tempfile.TemporaryDirectory(prefix="autopilot-options-") as nowhere:
        give_to_mysqld(settings, Path(nowhere))
        text = _complete([*command, f"--datadir={nowhere}", "--verbose", "--help"], VERSION_TIME).stdout
    found = dict(line for line in (line.strip().split(maxsplit=1) for line in _table(text)) if len(line) == 2)
    if "plugin-dir" not in found:
        raise ConfigError("mysqld --verbose --help does not say where its plugins are")
    return found


def _table(text: str) -> list[str]:
    """The lines of the table in which `mysqld --verbose --help` says what each option is set to."""
    _, _, rest = text.partition("\n---------")
    return rest.splitlines()[1:]


def initialise(settings: Settings) -> None:
    """Make an empty database with root@localhost without a password, time zones included.

    my.cnf must be written already: what cannot be changed later, such as the page size, is taken from there.
    The data directory must be empty but for names that begin with a dot. Nothing of this is in a binlog.
    """
    LOG.info("initialising an empty database in %s", settings.mysql_datadir)
    zones_text = "SET SESSION sql_log_bin = 0;\nUSE mysql;\n" + _zones(settings)
    has = installed(settings)
    if "initialize-insecure" not in has:
        _initialise_by_scripts(settings, Path(has["lc-messages-dir"]), zones_text)
        return
    with tempfile.TemporaryDirectory(prefix="initialise-", dir=settings.run_dir) as scratch:
        zones = Path(scratch) / "zones.sql"
        zones.write_text(zones_text)
        give_to_mysqld(settings, Path(scratch), settings.mysql_datadir)
        command = [
            program(settings, "mysqld"),
            f"--defaults-file={settings.mysql_conf}",
            "--initialize-insecure",
            f"--init-file={zones}",
            f"--tmpdir={scratch}",  # beside a server that runs: the temporary tables there are not ours to remove
        ]
        _run(command, INITIALISE_TIME)


def _initialise_by_scripts(settings: Settings, share: Path, zones: str) -> None:
    """5.6 has no --initialize: its system tables come from scripts, which mysql_install_db runs as well.

    Of the accounts that they make only root@localhost is left: there would be anonymous ones, and others of root.
    """
    try:
        texts = [(share / name).read_text() for name in SYSTEM_SCRIPTS]
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
    if any(not entry.name.startswith(".") for entry in settings.mysql_datadir.iterdir()):
        raise AutopilotError(f"{settings.mysql_datadir} cannot be initialised: it has files in it")
    tables = settings.mysql_datadir / "mysql"
    tables.mkdir()
    give_to_mysqld(settings, tables, settings.mysql_datadir)
    root_only = "DELETE FROM user WHERE User <> 'root' OR Host <> 'localhost';\nDELETE FROM db;\n"
    head = "SET SESSION sql_log_bin = 0;\nUSE mysql;\n"
    script = "".join([head, *texts, root_only, zones])
    command = [program(settings, "mysqld"), f"--defaults-file={settings.mysql_conf}", "--bootstrap"]
    command.append(f"--tmpdir={settings.mysql_datadir}")
    _run(command, INITIALISE_TIME, script)


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


def _run(command: list[str], seconds: float, script: str = "") -> str:
    """Return the program's standard output; AutopilotError with the last line of what it complained about."""
    done = _complete(command, seconds, script)
    if done.returncode:
        raise AutopilotError(f"{Path(command[0]).name} failed ({done.returncode}): {complaint(done.stderr)}")
    return done.stdout


def _complete(command: list[str], seconds: float, script: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program, with `script` as its input, to its end, however it ends."""
    name = Path(command[0]).name
    try:
        return subprocess.run(
            command,
            check=False,
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise AutopilotError(f"{name} did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise ConfigError(f"cannot run {name}: {error.strerror}") from None


def complaint(text: str) -> str:
    """Return the line of what a program has printed that says why it failed. Pure."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line] or [
        line for line in lines if re.search(r"\b(error|critical)\b.*:", line, re.IGNORECASE)
    ]
    # The first error is the cause; "Aborting" follows.
    return (errors or lines[-1:] or ["it said nothing"])[0].strip()
