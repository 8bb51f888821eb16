"""Settings: every rule of SPEC 4, and the table in the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manager import setting_values as values
from manager import settings
from manager.errors import AutopilotError, ConfigError
from manager.settings import Secret, Settings
from manager.variables import VARIABLES
from tests.documents import ROOT, replaced, the_block

# One of age's, of 32 zero bytes.
AGE_KEY = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ8H00W3"
HERE = {"NODE_NAME": "node-1", "NODE_ADDRESS": "127.0.42.11"}


def load(**environ: str) -> Settings:
    return settings.load({**HERE, **environ})


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**environ)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def test_defaults() -> None:
    found = load()
    assert (found.service_name, found.consul, found.consul_port, found.consul_agent) == (
        "mysql",
        "consul",
        8500,
        False,
    )
    assert (found.primary_key, found.backup_lock_key) == ("mysql-primary", "mysql-backup-running")
    assert (found.last_backup_key, found.last_binlog_key) == ("mysql-last-backup", "mysql-last-binlog")
    assert found.backup_name == "mysql-backup-%Y-%m-%dT%H-%M-%SZ"
    assert (found.backup_ttl, found.backup_driver, found.log_level) == (86400, "manta", "DEBUG")
    assert (found.mysql_random_root_password, found.mysql_onetime_password) == (True, True)
    assert (found.mysql_datadir, found.run_dir) == (Path("/var/lib/mysql"), Path("/var/run/mysqld"))
    assert (found.mysql_user, found.mysql_password, found.innodb_buffer_pool_size) == (None, None, None)
    assert (found.replication, found.secrets) == (False, ())


def test_names_follow_the_service() -> None:
    found = load(SERVICE_NAME="orders")
    assert (found.record_key, found.failover_lock_key) == ("orders-cluster", "orders-failover")
    assert (found.primary_key, found.last_backup_key) == ("orders-primary", "orders-last-backup")
    assert (found.primary_service, found.replica_service, found.node_service) == (
        "orders-primary",
        "orders",
        "orders-node",
    )
    assert found.backup_name.startswith("orders-backup-%Y")
    assert found.node_title == "mysql-node-1"


def test_two_clusters_have_no_name_of_a_key_service_or_snapshot_in_common() -> None:
    """The node's session is not here: its name has the service's in it as well (cluster.session_name)."""
    ours, theirs = load(), load(SERVICE_NAME="orders")
    names = [name for name in dir(ours) if name.endswith(("_key", "_prefix", "_service", "backup_name"))]
    named = {name: getattr(ours, name) for name in names if str(getattr(ours, name)).startswith("mysql")}
    assert len(named) >= 13, "keys and services are called otherwise now"
    assert [name for name in named if getattr(theirs, name).startswith("mysql")] == []


def test_every_variable_has_its_field_and_the_object_is_frozen() -> None:
    assert {one.field for one in VARIABLES} | {"consul_port"} == {one.name for one in fields(Settings)}
    with pytest.raises(FrozenInstanceError):
        load().service_name = "other"  # type: ignore[misc]


def test_the_documentation_has_the_same_table() -> None:
    rows = [
        tuple(cell.strip() for cell in line.strip("|\n").split("|"))
        for line in (ROOT / "docs" / "configuration.md").read_text().splitlines()
        if re.match(r"\| [A-Z]", line)
    ]
    assert rows == [
        (one.name, one.computed or (f"`{one.default}`" if one.default else ""), one.help) for one in VARIABLES
    ]


def test_the_documentation_names_every_secret() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    listed = text[text.index("**Secrets** (") : text.index(") are taken as they are")]
    assert set(re.findall(r"[A-Z][A-Z_]+", listed)) == {one.name for one in VARIABLES if one.secret}


# --- Cleaning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("  shop  ", "shop"),
        ("shop # the shop's database", "shop"),
        ("shop\t#comment", "shop"),
        ("shop#1", "shop#1"),
        ("#shop", "#shop"),
        ("${OWNER}_shop", "me_shop"),
        ("$OWNER", "me"),
        ("$NOBODY-shop", "$NOBODY-shop"),
    ],
)
def test_plain_values_are_cleaned_and_expanded(given_text: str, wanted: str) -> None:
    assert load(MYSQL_DATABASE=given_text, OWNER="me").mysql_database == wanted


@pytest.mark.parametrize("empty", ["", "   ", " # nothing"])
def test_an_empty_value_is_no_value(empty: str) -> None:
    assert load(MYSQL_DATABASE=empty, BACKUP_TTL=empty).mysql_database is None
    assert load(BACKUP_TTL=empty).backup_ttl == 86400


def test_defaults_follow_an_expanded_service_name() -> None:
    assert load(SERVICE_NAME=" ${TEAM}-db # ours", TEAM="a").primary_key == "a-db-primary"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=32))
@example(text="p#w d # $HOME ${HOME}#")
def test_secrets_are_verbatim(text: str) -> None:
    found = load(MYSQL_ROOT_PASSWORD=text, HOME="/root")
    assert found.mysql_root_password == Secret(text)
    assert found.secrets == (text,)


def test_a_secret_is_never_shown() -> None:
    found = load(MYSQL_USER="app", MYSQL_PASSWORD="hunter2 # $HOME")
    assert found.mysql_password is not None
    assert found.mysql_password.value == "hunter2 # $HOME"
    for shown in (repr(found), str(found), f"{found.mysql_password}", repr(found.mysql_password)):
        assert "hunter2" not in shown


# --- *_FILE and SECRETS -------------------------------------------------------------------------


def test_a_secret_from_a_file_loses_one_newline_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "root"
    file.write_text("a #b $HOME\n\n")
    found = load(MYSQL_ROOT_PASSWORD_FILE=str(file), HOME="/root")
    assert found.mysql_root_password == Secret("a #b $HOME\n")


def test_every_secret_has_its_file_form(tmp_path: Path) -> None:
    file, key = tmp_path / "secret", tmp_path / "key"
    file.write_text("s3cret\n")
    key.write_text(f"{AGE_KEY}\n")
    pairs = {"MYSQL_USER": "app", "MYSQL_REPL_USER": "repl", "AWS_ACCESS_KEY": "key", "BACKUP_DRIVER": "x:Y"}
    names = [one.name for one in VARIABLES if one.secret]
    files = {f"{name}_FILE": str(key if name == "SNAPSHOT_KEY" else file) for name in names}
    found = load(**pairs, **files)
    assert found.secrets == ("s3cret",) * (len(names) - 1) + (AGE_KEY,)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    text = refusal(MYSQL_ROOT_PASSWORD="geheim", MYSQL_ROOT_PASSWORD_FILE=str(tmp_path / "root"))
    assert text == "MYSQL_ROOT_PASSWORD and MYSQL_ROOT_PASSWORD_FILE are both set; use one of them"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary, empty = (tmp_path / name for name in ("missing", "binary", "empty"))
    binary.write_bytes(b"\xff\xfe")
    empty.write_text("\n")
    assert "MYSQL_ROOT_PASSWORD_FILE: cannot read" in refusal(MYSQL_ROOT_PASSWORD_FILE=str(missing))
    assert "it is not UTF-8" in refusal(MYSQL_ROOT_PASSWORD_FILE=str(binary))
    assert refusal(SNAPSHOT_KEY_FILE=str(empty)) == f"SNAPSHOT_KEY_FILE: {empty} is empty"


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the module `test_vault`, from which SECRETS takes its callable."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "test_vault", raising=False)

    def write(code: str) -> None:
        (tmp_path / "test_vault.py").write_text(code)

    return write


def test_a_key_management_system_wins_and_is_called_once(vault: Callable[[str], None]) -> None:
    vault(
        "calls = []\n"
        "def settings():\n"
        "    calls.append(1)\n"
        "    return {'MYSQL_ROOT_PASSWORD': 'from vault', 'BACKUP_TTL': ' 60 # s'}\n"
    )
    found = load(
        SECRETS="test_vault:settings",
        MYSQL_ROOT_PASSWORD="from environment",
        MYSQL_ROOT_PASSWORD_FILE="/does/not/exist",
        BACKUP_TTL="30",
    )
    assert (found.mysql_root_password, found.backup_ttl) == (Secret("from vault"), 60)
    assert sys.modules["test_vault"].calls == [1]


def test_the_documented_source_of_secrets(tmp_path: Path, vault: Callable[[str], None]) -> None:
    file = tmp_path / "mysql"
    file.write_text("from vault\n")
    block = the_block(__file__, "test_the_documented_source_of_secrets")
    vault(replaced(block.text, [("/run/vault/mysql", str(file))]))
    found = load(SECRETS="test_vault:settings", MYSQL_USER="app", MYSQL_PASSWORD="from environment")
    assert found.mysql_password == Secret("from vault")


@pytest.mark.parametrize("spec", ["test_vault", "test_vault:nothing", "no_such_module:settings", ":settings"])
def test_a_missing_source_of_secrets_is_wrong_configuration(vault: Callable[[str], None], spec: str) -> None:
    vault("")
    assert refusal(SECRETS=spec) == f"SECRETS: cannot import {spec!r}; it must be module:callable"


def test_a_source_of_secrets_must_return_texts(vault: Callable[[str], None]) -> None:
    vault("def settings():\n    return {'BACKUP_TTL': 5}\n")
    assert "must return a mapping" in refusal(SECRETS="test_vault:settings")


def test_a_failing_source_of_secrets_tells_no_secret(vault: Callable[[str], None]) -> None:
    vault("def settings():\n    raise OSError('token hunter2 refused')\n")
    with pytest.raises(AutopilotError) as caught:
        load(SECRETS="test_vault:settings")
    assert str(caught.value) == "SECRETS: test_vault:settings failed with OSError"
    assert caught.value.exit_code == 1


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("INNODB_BUFFER_POOL_SIZE", "128", 128 << 20),
        ("INNODB_BUFFER_POOL_SIZE", "6000k", 6000 << 10),
        ("INNODB_BUFFER_POOL_SIZE", "2G", 2 << 30),
        ("LOG_LEVEL", "info", "INFO"),
        ("MYSQL_RANDOM_ROOT_PASSWORD", "No", False),
        ("AWS_REGION", "us-standard", "us-east-1"),
        ("BACKUP_DRIVER", "my.stores:Tape", "my.stores:Tape"),
        ("MANTA_KEY_ID", "MD5:" + ":".join(["aB"] * 16), ":".join(["ab"] * 16)),
        ("MANTA_ROLE", "writer, reader", "writer, reader"),
        ("BACKUP_NAME", "nightly", "nightly"),
        ("CONSUL", "[::1]", "::1"),
        ("NODE_ADDRESS", "2001:db8::", "2001:db8::"),
        ("FAILOVER_PRIORITY", "0", 0),
        ("CONSUL_CACERT", __file__, __file__),
    ],
)
def test_values(name: str, text: str, wanted: Any) -> None:
    assert getattr(load(**{name: text}), name.lower()) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"), [("c:9500", ("c", 9500)), ("10.0.0.1", ("10.0.0.1", 8500)), ("[::1]:1", ("::1", 1))]
)
def test_consul_takes_a_port(text: str, wanted: tuple[str, int]) -> None:
    found = load(CONSUL=text)
    assert (found.consul, found.consul_port) == wanted
    assert found.consul_http == wanted


def test_hooks_talk_to_the_own_agent_without_tls() -> None:
    found = load(CONSUL="c", CONSUL_AGENT="1", CONSUL_CLIENT_ADDRESS="127.0.42.11", CONSUL_HTTP_SSL="yes")
    assert (found.consul_http, found.consul_scheme) == (("127.0.42.11", 8500), "http")
    assert load(CONSUL="c", CONSUL_HTTP_SSL="yes").consul_scheme == "https"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("BACKUP_TTL", "abc", "must be a whole number of at least 1, not 'abc'"),
        ("BACKUP_TTL", "0", "at least 1"),
        ("BACKUP_TTL", "-5", "at least 1"),
        ("BACKUP_DRIVER", "nope", "must be manta, s3, local or module:Class, not 'nope'"),
        ("MANTA_BUCKET", "mysql", "must be the path of a directory, such as /me/stor/mysql, not 'mysql'"),
        ("MANTA_BUCKET", "/me", "must be the path of a directory"),
        ("MANTA_BUCKET", "/me/stor/../other", "must be the path of a directory"),
        ("MANTA_KEY_ID", "SHA256:abc", "must be an md5 fingerprint"),
        ("MANTA_KEY_ID", ":".join(["ab"] * 17), "must be an md5 fingerprint"),
        ("MANTA_USER", 'me/"x', "must be letters, digits and any of"),
        ("MANTA_SUBUSER", "a b", "must be letters, digits and any of"),
        ("MANTA_ROLE", "writer,,reader", "must be names of roles with commas"),
        ("MYSQL_PORT", "70000", "from 1 to 65535"),
        ("MYSQL_RANDOM_ROOT_PASSWORD", "maybe", "must be yes or no"),
        ("MYSQL_DATADIR", "var/lib", "must be an absolute path"),
        ("INNODB_BUFFER_POOL_SIZE", "70%", "must be a number of megabytes"),
        ("INNODB_BUFFER_POOL_SIZE", "1", "at least 5M"),
        ("LOG_LEVEL", "loud", "must be DEBUG or INFO"),
        ("SERVICE_NAME", "my_sql", "letters, digits and inner hyphens"),
        ("SERVICE_NAME", "a" * 56, "at most 55"),
        ("SERVICE_NAME", "mysql-primary", "must not end in -primary"),
        ("NODE_NAME", "a/b", "letters, digits"),
        ("NODE_ADDRESS", "host:3306", "without a port"),
        ("CONSUL", "http://consul:8500", "must be HOST or HOST:PORT"),
        ("CONSUL", "consul:0", "from 1 to 65535"),
        ("PRIMARY_KEY", "/mysql", "must be a Consul key"),
        ("BACKUP_NAME", "a/b", "must be a file name"),
        ("AWS_ENDPOINT_URL", "s3.example.com", "must be an http"),
        ("AWS_ENDPOINT_URL", "http://key:hunter2@s3", "without a user name or a password"),
        ("MYSQL_DATABASE", "mysql", "MySQL or Autopilot uses itself"),
        ("MYSQL_DATABASE", "d" * 65, "at most 64"),
        ("DURABILITY", "sync", "must be async"),
        ("FAILOVER_ENGINE", "mha", "must be native or mysqlrpladmin"),
        ("PILOT", "supervisord", "must be containerpilot or consul"),
        ("SNAPSHOT_NODE", "any", "must be primary or replica"),
        ("CONSUL_CACERT", "/does/not/exist.pem", "there is no file"),
        ("LEASE", "1", "from 5 to 3600"),
    ],
)
def test_refused_values_name_the_variable(name: str, text: str, part: str) -> None:
    found = refusal(**{name: text})
    assert found.startswith(f"{name}: ")
    assert part in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [
        ("MYSQL_USER", "app", "MYSQL_PASSWORD"),
        ("MYSQL_PASSWORD", "x", "MYSQL_USER"),
        ("MYSQL_REPL_USER", "repl", "MYSQL_REPL_PASSWORD"),
        ("MYSQL_REPL_PASSWORD", "x", "MYSQL_REPL_USER"),
        ("AWS_ACCESS_KEY", "x", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_what_goes_together(name: str, value: str, missing: str) -> None:
    assert refusal(**{name: value}) == f"{missing} is missing, although {name} is set"


def test_a_driver_needs_its_settings() -> None:
    assert refusal(BACKUP_DRIVER="s3") == "AWS_BUCKET is missing, although BACKUP_DRIVER is s3"
    assert refusal(BACKUP_DRIVER="local") == "STORAGE_DIR is missing, although BACKUP_DRIVER is local"
    assert load(BACKUP_DRIVER="local", STORAGE_DIR="/backups").storage_dir == Path("/backups")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("MYSQL_REPL_PASSWORD", f"hunter2{sign}") for sign in ",:'\"\\ä\n"),
        *(("MYSQL_REPL_USER", f"r{sign}") for sign in ",:'\"\\ä@"),
    ],
)
def test_what_mysqlrpladmin_cannot_be_told(name: str, text: str) -> None:
    given = {"FAILOVER_ENGINE": "mysqlrpladmin", "MYSQL_REPL_USER": "r", "MYSQL_REPL_PASSWORD": "p"}
    refused = refusal(**{**given, name: text})
    assert refused.startswith(f"{name}: FAILOVER_ENGINE=mysqlrpladmin takes ")
    assert "hunter2" not in refused
    assert load(**{**given, name: text, "FAILOVER_ENGINE": "native"}).failover_engine == "native"


def test_mysqlrpladmin_is_for_async_alone() -> None:
    given = {"FAILOVER_ENGINE": "mysqlrpladmin", "MYSQL_REPL_USER": "r"}
    every = "".join(chr(code) for code in range(32, 127) if chr(code) not in ",:'\"\\")
    for password in (every[:32], every[32:64], every[64:]):
        assert load(**given, MYSQL_REPL_PASSWORD=password).failover_engine == "mysqlrpladmin"
    assert "DURABILITY=async only" in refusal(**given, MYSQL_REPL_PASSWORD="p", DURABILITY="semisync")
    assert load(FAILOVER_ENGINE="mysqlrpladmin").mysql_repl_user is None


MANTA = {
    "MANTA_URL": "https://manta.example.com",
    "MANTA_USER": "me",
    "MANTA_PRIVATE_KEY": "key",
    "MANTA_BUCKET": "/me/stor/mysql",
}


@pytest.mark.parametrize("missing", MANTA)
def test_manta_is_given_whole_or_not_at_all(missing: str) -> None:
    given = {name: value for name, value in MANTA.items() if name != missing}
    for driver in ({}, {"BACKUP_DRIVER": "manta"}):
        assert refusal(**given, **driver).startswith(f"{missing} is missing, although MANTA_")
    assert load(**{**MANTA, "MANTA_BUCKET": "/me/stor/mysql/"}).manta_bucket == "/me/stor/mysql"
    assert load(**given, BACKUP_DRIVER="s3", AWS_BUCKET="b").backup_driver == "s3"


def test_accounts() -> None:
    assert load(MYSQL_REPL_USER="r", MYSQL_REPL_PASSWORD="p" * 32).replication
    long = refusal(MYSQL_REPL_USER="r", MYSQL_REPL_PASSWORD="hunter2" * 5)
    assert long.startswith("MYSQL_REPL_PASSWORD: must have at most 32 characters")
    assert "hunter2" not in long
    assert "at most 32" in refusal(MYSQL_USER="u" * 33, MYSQL_PASSWORD="x")
    assert "MYSQL_USER: must not be 'root'" in refusal(MYSQL_USER="root", MYSQL_PASSWORD="x")
    same = {"MYSQL_USER": "a", "MYSQL_PASSWORD": "x", "MYSQL_REPL_USER": "a", "MYSQL_REPL_PASSWORD": "y"}
    assert "MYSQL_REPL_USER must not be the same account" in refusal(**same)


@pytest.mark.parametrize("taken", ["mysql-cluster", "mysql-failover", "mysql-last-binlog"])
def test_keys_must_differ(taken: str) -> None:
    assert "is already the key of" in refusal(PRIMARY_KEY=taken)


# --- This node ----------------------------------------------------------------------------------


def test_the_address_is_that_of_the_interface_towards_consul() -> None:
    assert settings.load({"NODE_NAME": "n", "CONSUL": "127.0.0.1"}).node_address == "127.0.0.1"


def test_an_address_is_found_although_consuls_name_is_unknown() -> None:
    found = settings.load({"CONSUL": "consul.invalid"})
    values.host(found.node_address)
    values.node(found.node_name)


def run_python(code: str) -> str:
    """What the code prints in an interpreter of its own, which finds the hooks' modules."""
    env = {"PYTHONPATH": str(ROOT / "bin"), "BACKUP_TTL": "abc"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_settings_imports_nothing_heavy() -> None:
    code = "import sys, manager.settings; print({'consul', 'requests', 'boto3', 'pymysql'} & {*sys.modules})"
    assert run_python(code) == "set()"


def test_health_imports_nothing_of_snapshots() -> None:
    """It starts every few seconds, on every node."""
    code = (
        "import sys, manager.hooks.health; print({'pyrage', 'zstandard', 'boto3', 'manta'} & {*sys.modules})"
    )
    assert run_python(code) == "set()"


LOOK_AT_IMPORTS = """
import importlib, os, pkgutil, sys
import manager

def watched(method):
    def call(*given):
        frame = sys._getframe(1)
        while frame.f_code.co_filename in ("<frozen os>", "<frozen _collections_abc>"):
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(sys.path[1]):
            readers.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return method(*given)
    return call

readers, environment = [], type(os.environ)
for name in ("__getitem__", "__iter__"):
    setattr(environment, name, watched(getattr(environment, name)))
modules = [one.name for one in pkgutil.walk_packages(manager.__path__, "manager.")]
for name in (*modules, "manage", "pilot"):
    importlib.import_module(name)
print(len(modules) > 50, readers)
"""


def test_no_module_reads_a_setting_at_import_time() -> None:
    """What is read then is not what `load` is given, and is checked by nobody."""
    assert run_python(LOOK_AT_IMPORTS) == "True []"


def test_the_usual_aws_variables_are_no_half_of_ours() -> None:
    chain = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "of that id"}
    assert load(**chain).aws_access_key is None
