"""A server with much of what a user may have in it, for dumps; and the programs that make them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pymysql

from sandbox import packages as parts
from tests.integration.mysql_nodes import AWKWARD, Node

PROGRAMS = ("mydumper", "myloader")


def write_programs(directory: Path) -> None:
    """Put mydumper and myloader 0.10.1, of Debian, into `directory`."""
    directory.mkdir()
    plugins = (
        parts.cache_directory() / "programs" / "mydumper-bookworm" / "usr/lib/x86_64-linux-gnu/libmariadb3"
    )
    for name in PROGRAMS:
        words = shlex.join(parts.program("mydumper", f"usr/bin/{name}"))
        script = directory / name
        script.write_text(f'#!/bin/sh\nMARIADB_PLUGIN_DIR={plugins}/plugin exec {words} "$@"\n')
        script.chmod(0o755)


def connect(node: Node, user: str = "root", password: str = "", **options: Any) -> pymysql.Connection[Any]:
    """Over the socket."""
    return pymysql.connect(
        unix_socket=str(node.settings.socket),
        user=user,
        password=password.encode(),
        charset="utf8mb4",
        autocommit=True,
        read_timeout=60,
        **options,
    )


def sql(node: Node, *statements: str | tuple[str, Sequence[object]]) -> tuple[tuple[Any, ...], ...]:
    """Run statements as root, and return the rows of the last."""
    with connect(node) as connection, connection.cursor() as cursor:
        for each in statements:
            text, values = (each, None) if isinstance(each, str) else each
            cursor.execute(text, values)
        return tuple(cursor.fetchall())


def open_server(node: Node) -> None:
    """Let everybody write, without all that a primary is."""
    with node.local() as conn:
        capabilities = conn.capabilities
    if capabilities.super_read_only:
        sql(node, "SET GLOBAL super_read_only = 0")
    if capabilities.offline_mode:
        sql(node, "SET GLOBAL offline_mode = 0")
    sql(node, "SET GLOBAL read_only = 0")


TABLES = (
    "CREATE DATABASE app CHARACTER SET latin1",
    "USE app",
    "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, worker INT, text VARCHAR(200))",
    "CREATE TABLE empty_one (id INT AUTO_INCREMENT PRIMARY KEY) AUTO_INCREMENT = 77",
    "CREATE TABLE negative (id INT PRIMARY KEY, b BIT(9), d DECIMAL(20, 9), y YEAR, n DOUBLE)",
    "INSERT INTO negative VALUES (-9, b'101010101', 12345678901.123456789, 1999, 1/3), (-5, NULL, -1, NULL, 2e300)",
    "CREATE TABLE kinds (id INT PRIMARY KEY, e ENUM('ä', 'b') DEFAULT 'ä', s VARCHAR(9) DEFAULT 'ö%s',"
    " u VARCHAR(9) CHARACTER SET utf8mb4, x VARBINARY(9), c CHAR(9)) COMMENT 'a \\'comment\\'; of two\nlines'",
    (
        "INSERT INTO kinds VALUES (1, 'ä', 'ß;\n\"', '😀', %s, 'c'), (2, 'b', '', NULL, '', '')",
        (bytes([0, 255, 39, 34, 92, 10]),),
    ),
    "CREATE TABLE moments (id INT PRIMARY KEY, at TIMESTAMP(6) NULL, plain DATETIME,"
    " first TIMESTAMP NOT NULL DEFAULT '2001-02-03 04:05:06')",
    "SET time_zone = '-03:00'",
    "INSERT INTO moments VALUES (1, '2020-03-04 05:06:07.890123', '1000-01-01 00:00:00', '2002-01-01 00:00:00')",
    "CREATE TABLE blobs (id INT AUTO_INCREMENT PRIMARY KEY, content LONGBLOB)",
    ("INSERT INTO blobs (content) VALUES (%s), (%s)", (os.urandom(600_000), bytes(range(256)) * 40)),
    # More than a tenth of the redo log, which 5.6 refuses of one row.
    *[("INSERT INTO blobs (content) VALUES (%s)", (os.urandom(30_000),))] * 40,
    "CREATE TABLE parent (id INT PRIMARY KEY)",
    "CREATE TABLE a_child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id))",
    "INSERT INTO parent VALUES (1)",
    "INSERT INTO a_child VALUES (1, 1)",
    "CREATE TABLE in_memory (id INT PRIMARY KEY) ENGINE = MEMORY",
    "CREATE DATABASE `o-d'd`",
    "CREATE TABLE `o-d'd`.`täble 1` (id INT PRIMARY KEY, `säul'e` INT) PARTITION BY HASH (id) PARTITIONS 3",
    "INSERT INTO `o-d'd`.`täble 1` VALUES (1, 1), (2, 2), (3, 3)",
    "REPLACE INTO autopilot.marker VALUES (7, '2020-01-01')",
)
# Not on 8.0.15, of whose tables with a default of CURRENT_TIMESTAMP mydumper loses values.
STAMPED = (
    "SET SESSION sql_mode = ''",
    "CREATE TABLE app.stamped (id INT PRIMARY KEY, made TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"
    " ON UPDATE CURRENT_TIMESTAMP, zero DATE NOT NULL DEFAULT '0000-00-00')",
    "INSERT INTO app.stamped VALUES (1, '2001-01-01', '0000-00-00'), (2, '2001-01-01', '2001-00-00')",
)
# The second row does not fit into one statement with the first: mydumper writes it in another way.
GENERATED = (
    "CREATE TABLE app.generated (id INT PRIMARY KEY, j JSON, a VARCHAR(9), c VARCHAR(18) AS (CONCAT(a, a)) STORED,"
    " v INT AS (id * 2), big LONGTEXT)",
    """INSERT INTO app.generated (id, j, a, big) VALUES (1, '{"k": "ä\\'"}', 'ö', REPEAT('x', 600000))""",
    "INSERT INTO app.generated (id, j, a, big) VALUES (2, NULL, 'bbbbbbbbb', REPEAT('y', 600000))",
)
# On 5.7 nobody could load it.
WITH_LITERAL = (
    "CREATE TABLE app.literal (id INT PRIMARY KEY, j JSON, k VARCHAR(9) AS (j->>'$.k') STORED)",
    """INSERT INTO app.literal (id, j) VALUES (1, '{"k": "ä\\'"}')""",
)
PROGRAMS_WITHIN = (
    "USE app",
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
    "CREATE FUNCTION joined(a VARCHAR(9)) RETURNS VARCHAR(20) DETERMINISTIC\nBEGIN\n  DECLARE x INT;\n"
    "  RETURN a || ';\n' || 'ä';\nEND",
    'CREATE PROCEDURE quoted() SELECT COUNT(*) FROM "t"',
    "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'",
    "CREATE VIEW z_view AS SELECT id, joined('ö') AS j FROM t WHERE text <> 'u'",
    "CREATE VIEW a_view AS SELECT * FROM z_view",
    "CREATE DEFINER = 'nobody'@'there' VIEW `o-d'd`.`v 'ü` AS SELECT * FROM `o-d'd`.`täble 1`",
    "SET NAMES latin1",
    "CREATE PROCEDURE in_latin1() SELECT 'ä'",
    "CREATE VIEW l_view AS SELECT 'ä' AS a",
    "SET NAMES utf8mb4",
    "CREATE TRIGGER counted BEFORE INSERT ON t FOR EACH ROW SET NEW.text = CONCAT(NEW.text, 'ä;\n')",
    "SET SESSION time_zone = '+02:00'",
    "CREATE EVENT e_1 ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DO DELETE FROM t WHERE id < 0",
    "CREATE EVENT e_2 ON SCHEDULE EVERY 1 DAY DISABLE DO DO 0",
)

Account = tuple[str, str]
ACCOUNTS: Mapping[Account, str] = {
    ("repl", "%"): AWKWARD,
    ("o'x", "%"): AWKWARD,
    ("back\\s", "localhost"): "p",
    ('dq"`u', "localhost"): "p",
    ("ümlaut", "localhost"): AWKWARD,
    ("root", "127.0.0.1"): "r",
}
GRANTS = (
    "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
    "GRANT SELECT (id), INSERT ON app.t TO 'o''x'@'%'",
    "GRANT ALL ON `a\\_b%`.* TO 'o''x'@'%' WITH GRANT OPTION",
    "GRANT EXECUTE ON PROCEDURE app.quoted TO 'o''x'@'%'",
    "GRANT PROXY ON 'ümlaut'@'localhost' TO 'o''x'@'%' WITH GRANT OPTION",
    "GRANT SELECT, PROCESS ON *.* TO 'ümlaut'@'localhost'",
    "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION",
)
OF_56 = (
    "GRANT USAGE ON *.* TO 'dq\"`u'@'localhost' REQUIRE ISSUER '/CN=it''s' WITH MAX_QUERIES_PER_HOUR 5",
    "CREATE USER sha@'%' IDENTIFIED WITH sha256_password AS '$5$UwU9/(u(a@vlf\\nK\\'i\\\\cd$O9gy4P/0V5ycftsG.15ViFVGY'",
    "ALTER USER 'back\\\\s'@'localhost' PASSWORD EXPIRE",
)
OF_57 = (
    "ALTER USER 'dq\"`u'@'localhost' REQUIRE ISSUER '/CN=it''s' WITH MAX_QUERIES_PER_HOUR 5 PASSWORD EXPIRE INTERVAL"
    " 9 DAY",
    "ALTER USER 'back\\\\s'@'localhost' PASSWORD EXPIRE ACCOUNT LOCK",
    "CREATE USER sha@'%' IDENTIFIED WITH sha256_password BY 'abc'",
)
OF_80 = (
    *OF_57,
    "CREATE ROLE r_1",
    "GRANT SELECT ON app.* TO r_1",
    "GRANT r_1 TO 'o''x'@'%' WITH ADMIN OPTION",
    "ALTER USER 'o''x'@'%' DEFAULT ROLE r_1",
    "ALTER USER 'o''x'@'%' PASSWORD HISTORY 3 PASSWORD REQUIRE CURRENT OPTIONAL",
    "GRANT BACKUP_ADMIN ON *.* TO repl@'%'",
    # Salts with all that could need a quote: 40 of them hold each of ' \\ and a line's end, or nearly.
    *(f"CREATE USER c_{number}@localhost IDENTIFIED BY 'abc'" for number in range(40)),
)


def make_accounts(node: Node, version: str) -> None:
    """Make ACCOUNTS with GRANTS, and those of a series."""
    for (user, host), password in ACCOUNTS.items():
        sql(node, ("CREATE USER %s@%s IDENTIFIED BY %s", (user, host, password)))
    sql(node, *GRANTS, *{"5.6": OF_56, "5.7": OF_57, "8.0": OF_80}[version])


def accounts(node: Node) -> dict[Account, tuple[str, ...]]:
    """All accounts with what the server says of their rights, and has stored of them."""
    found = {}
    for row in sql(
        node, "SELECT User, Host FROM mysql.user WHERE User NOT LIKE 'mysql.%' AND User <> 'autopilot'"
    ):
        rights = sql(node, ("SHOW GRANTS FOR %s@%s", row))
        stored = sql(node, ("SELECT * FROM mysql.user WHERE User = %s AND Host = %s", row))
        columns = sql(
            node,
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'mysql'"
            " AND TABLE_NAME = 'user' ORDER BY ORDINAL_POSITION",
        )
        values = [
            f"{name}={value}"
            for (name,), value in zip(columns, stored[0], strict=True)
            if name != "password_last_changed"
        ]
        found[row[0], row[1]] = (*sorted(line for (line,) in rights), *values)
    return found
