"""What is told from the files and lines of a logical copy."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from manager.errors import SnapshotError
from manager.gtid import GtidSet
from manager.settings import Settings, load
from manager.snapshot.logical import dump
from manager.snapshot.logical.accounts import known_rights, split_grant
from manager.snapshot.logical.definitions import Definitions, Table

ONE, TWO = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
METADATA = """Started dump at: 2026-11-27 04:24:02
SHOW MASTER STATUS:
\tLog: binlog.000001
\tPos: 151
\tGTID:{}

SHOW SLAVE STATUS:
\tHost: 127.0.0.1
\tLog: binlog.000001
\tPos: 4
\tGTID:aaaaaaaa-71ca-11e1-9e33-c80aa9429562:1

Finished dump at: 2026-11-27 04:24:03
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        {
            "NODE_NAME": "n",
            "NODE_ADDRESS": "127.0.0.1",
            "RUN_DIR": str(tmp_path),
            "MYSQL_BINDIR": str(tmp_path),
            "BACKUP_DRIVER": "local",
            "STORAGE_DIR": str(tmp_path),
        }
    )


@pytest.mark.parametrize("text", [f"{ONE}:1-5", f"{ONE}:1-5:7,\n{TWO}:1-3"])
def test_the_gtid_set_may_span_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata").write_text(METADATA.format(text))
    assert dump.read_gtid(tmp_path) == GtidSet.parse(text)


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        (None, "has written no metadata: No such file"),
        ("", "has noted no GTID set"),
        ("Started dump at: 2026-11-27 04:24:02\n", "has noted no GTID set"),
        (METADATA.format(""), "has noted no GTID set"),
        (METADATA.format("(null)"), "has noted what is no GTID set"),
    ],
)
def test_a_dump_without_a_gtid_set_is_none(tmp_path: Path, metadata: str | None, line: str) -> None:
    if metadata is not None:
        (tmp_path / "metadata").write_text(metadata)
    with pytest.raises(SnapshotError, match=line):
        dump.read_gtid(tmp_path)


def test_rows_are_counted_by_the_files_of_a_table(tmp_path: Path) -> None:
    head = b"/*!40101 SET NAMES binary*/;\n"
    files = {
        "app.t.00001.sql": head + b"INSERT INTO `t` (`id`) VALUES\n(1),\n(2);\n",
        "app.t.00002.sql": head + b"INSERT INTO `t` (`id`) VALUES\n(3);\n",
        "app.t2.sql": head + b'INSERT INTO `t2` (`a`) VALUES\n("(\\n(");\n',
        "app.empty.sql": b"",
        "o-d'd.täble 1.100000.sql": head + b"INSERT INTO `x` (`id`) VALUES\n(1);\n",
        "metadata": b"(",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert dump.row_counts(tmp_path) == {
        ("app", "t"): 3,
        ("app", "t2"): 1,
        ("app", "empty"): 0,
        ("o-d'd", "täble 1"): 1,
    }


def test_the_login_is_for_nobody_else_to_read(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "client.cnf").write_text("[client]\nuser = autopilot\npassword = secret\n")
    dump.write_login(settings, tmp_path / "login", "mydumper", "an = option")
    assert stat.S_IMODE((tmp_path / "login").stat().st_mode) == 0o600
    socket = f"socket = {settings.socket}"
    lines = ["[client]", "user = autopilot", socket, "password = secret", "[mydumper]", "an = option"]
    assert (tmp_path / "login").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("mydumper 0.10.0, built against MySQL 10.11.14", ""),
        (
            "mydumper v0.16.3-5, built against MySQL 8.0.36",
            "mydumper must be of version 0.10, not 'mydumper v0.16",
        ),
        ("mydumper 0.1.9, built against MySQL 5.5", "mydumper must be of version 0.10, not 'mydumper 0.1.9"),
    ],
)
def test_another_version_writes_other_files(tmp_path: Path, settings: Settings, said: str, why: str) -> None:
    (tmp_path / "mydumper").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "mydumper").chmod(0o755)
    if not why:
        assert dump.program(settings, "mydumper") == str(tmp_path / "mydumper")
        return
    with pytest.raises(SnapshotError, match=why):
        dump.program(settings, "mydumper")


def test_a_missing_program(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SnapshotError, match="there is no mydumper"):
        dump.program(settings, "mydumper")


@pytest.mark.parametrize(
    ("line", "user", "parts"),
    [
        ("GRANT USAGE ON *.* TO 'u'@'%' IDENTIFIED BY PASSWORD '*AB'", "u", ["GRANT USAGE ON *.*", ""]),
        (
            "GRANT ALL ON *.* TO 'u'@'%' IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL WITH GRANT OPTION"
            " MAX_QUERIES_PER_HOUR 5",
            "u",
            ["GRANT ALL ON *.*", " WITH GRANT OPTION"],
        ),
        ("GRANT SELECT ON `a TO 'u'`.* TO 'o'x'@'%'", "o'x", ["GRANT SELECT ON `a TO 'u'`.*", ""]),
        ("GRANT `r`@`%` TO `a``b`@`%` WITH ADMIN OPTION", "a`b", ["GRANT `r`@`%`", " WITH ADMIN OPTION"]),
    ],
)
def test_a_line_of_show_grants(line: str, user: str, parts: list[str]) -> None:
    assert split_grant(line, user, "%") == parts


def test_a_line_that_is_of_nobody() -> None:
    with pytest.raises(SnapshotError, match="the rights of the account 'u'@'%' cannot be read"):
        split_grant("GRANT USAGE ON *.* TO 'v'@'%'", "u", "%")


def test_counters_alone_may_differ() -> None:
    def of(create: str) -> Definitions:
        return Definitions(
            schemas={}, tables=[Table(schema="a", name="t", engine="InnoDB", create=create)], programs=[]
        )

    assert of("CREATE .. ENGINE=InnoDB AUTO_INCREMENT=5 X").same_as(
        of("CREATE .. ENGINE=InnoDB AUTO_INCREMENT=7 X")
    )
    assert of("CREATE .. ENGINE=InnoDB X").same_as(of("CREATE .. ENGINE=InnoDB AUTO_INCREMENT=2 X"))
    assert not of("CREATE a").same_as(of("CREATE b"))
    assert not of("CREATE a").same_as(Definitions(schemas={}, tables=[], programs=[]))


def test_rights_that_a_newer_server_has_no_more() -> None:
    known = frozenset({"BACKUP_ADMIN", "SUPER"})
    assert known_rights("GRANT BACKUP_ADMIN,SET_USER_ID ON *.*", known) == "GRANT BACKUP_ADMIN ON *.*"
    assert known_rights("GRANT SET_USER_ID ON *.*", known) == "GRANT USAGE ON *.*"
    for same in (
        "GRANT SELECT, SUPER ON *.*",
        "GRANT ALL PRIVILEGES ON *.*",
        "GRANT SELECT ON `a_b`.*",
        "GRANT `r_1`@`%`",
    ):
        assert known_rights(same, known) == same
