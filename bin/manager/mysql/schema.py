"""The schema `autopilot`: local to each server, never replicated, made by init_file at every start.

init_file runs one statement after the other, split at each `;`, and ends at the first that fails
(facts/fencing.md B); so these have no compound bodies and cannot fail on an existing database.
"""

from __future__ import annotations

from manager.mysql.dialect import Capabilities

SCHEMA = "autopilot"
WATCHDOG_LOCK = "autopilot-watchdog"

TABLES = (
    f"CREATE DATABASE IF NOT EXISTS {SCHEMA} CHARACTER SET utf8mb4",
    (
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.node ("
        "server_uuid CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY, cluster_id VARCHAR(64) NOT NULL,"
        " epoch BIGINT NOT NULL, version BIGINT NOT NULL,"
        " opened_epoch BIGINT NOT NULL, events_epoch BIGINT NOT NULL, priority INT NOT NULL,"
        " record MEDIUMTEXT NOT NULL) ENGINE=InnoDB"
    ),
    # The one table here that is replicated: its rows come only through the binlog, so all servers have the same.
    f"CREATE TABLE IF NOT EXISTS {SCHEMA}.marker (id SMALLINT NOT NULL PRIMARY KEY, at DATETIME(6) NOT NULL)"
    " ENGINE=InnoDB",
    f"CREATE TABLE IF NOT EXISTS {SCHEMA}.lease (id TINYINT NOT NULL PRIMARY KEY,"
    " until_ts DATETIME(6) NULL) ENGINE=InnoDB",
)


def watchdog(has: Capabilities) -> str:
    """Return the statement that makes the event which closes a server that nobody looks after any more.

    The looping form: an event that is merely due once a second does not run during LOCK INSTANCE FOR BACKUP or
    FLUSH TABLES WITH READ LOCK, while a loop that has begun goes on (facts/fencing.md C). Only a server that is
    open for writing is closed; under super_read_only the event scheduler stands still by itself. Without
    offline_mode it makes the server read-only, which waits for running statements and is tried again each second.
    """
    closed = "super_read_only" if has.super_read_only else "read_only"
    close = "offline_mode" if has.offline_mode else "read_only"
    return f"""CREATE EVENT {SCHEMA}.watchdog ON SCHEDULE EVERY 1 SECOND ON COMPLETION PRESERVE ENABLE DO
BEGIN
  DECLARE lease_end DATETIME(6);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION
    IF @@global.read_only = 0 THEN SET GLOBAL {close} = 1; END IF;
  SET SESSION autocommit = 1, lock_wait_timeout = 1, innodb_lock_wait_timeout = 1;
  IF GET_LOCK('{WATCHDOG_LOCK}', 0) = 1 THEN
    WHILE @@global.{closed} = 0 DO
      SELECT MAX(until_ts) INTO lease_end FROM {SCHEMA}.lease;
      IF (lease_end IS NULL OR lease_end < UTC_TIMESTAMP(6))
          AND @@global.read_only = 0 AND @@global.{close} = 0 THEN
        SET GLOBAL {close} = 1;
      END IF;
      DO SLEEP(0.2);
    END WHILE;
    DO RELEASE_LOCK('{WATCHDOG_LOCK}');
  END IF;
END"""
