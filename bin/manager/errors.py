"""The project's tree of exceptions.

Every foreseeable fault is one of these; its text is one line that a person can act on. Errors of
PyMySQL, py-consul and the stores are mapped to it in exactly one place each.
"""

from __future__ import annotations


class AutopilotError(Exception):
    """A foreseeable fault; `exit_code` is what `manage.py` exits with (SPEC 3)."""

    exit_code = 1


class ConfigError(AutopilotError):
    """A setting is missing or wrong; names the variable."""

    exit_code = 2


class Unhealthy(AutopilotError):
    """This node is certainly not what the pilot asked about."""

    exit_code = 2


class TimeIsUp(Exception):
    """The command has used up the time that SPEC 3 gives it. No AutopilotError: no step may take it for its own."""

    exit_code = 1


class Busy(AutopilotError):
    """Another process of this node does the same thing now."""


# --- Consul -------------------------------------------------------------------------------------


class ConsulError(AutopilotError):
    """Consul answered with something unexpected."""


class ConsulUnavailable(ConsulError):
    """No answer, no leader, or a refused connection. Nothing is known about the call's effect."""


class ConsulDenied(ConsulError):
    """An ACL forbids the call."""


class SessionInvalid(ConsulError):
    """The session is dead, or could not be created on a critical check."""


class TransactionRefused(ConsulError):
    """Consul refused a transaction whole: nothing in it was changed."""


class LockHeld(ConsulError):
    """Another session holds the lock."""


class LockLost(ConsulError):
    """A lock that was held is held no longer."""


class RecordError(ConsulError):
    """The cluster record cannot be read by this version."""


# --- MySQL --------------------------------------------------------------------------------------


class MySQLError(AutopilotError):
    """A MySQL server refused a statement; `errno` is the server's number, 0 if there is none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class ServerUnreachable(MySQLError):
    """No connection, a lost one, or no answer within the time limit."""


class AccessDenied(MySQLError):
    """The account does not exist, is locked, or has another password."""


class ServerOffline(MySQLError):
    """offline_mode refused or cut the connection (3032)."""


class TooManyConnections(MySQLError):
    """The socket has no connection left (1040); the server itself may be fine."""


class NotClosed(MySQLError):
    """offline_mode is on, but the server could not be made read-only in time."""


class GuardBusy(MySQLError):
    """Another connection (`holder`) holds this server's guard, for `age_s` seconds."""

    def __init__(self, message: str, holder: int | None = None, age_s: float | None = None) -> None:
        super().__init__(message)
        self.holder = holder
        self.age_s = age_s


class GuardLost(MySQLError):
    """The guard's connection is gone: nothing that it froze may be taken for frozen."""


class ReplicationFailed(MySQLError):
    """Replication could not be started, or did not get going in time."""


# --- Snapshots ----------------------------------------------------------------------------------


class StoreError(AutopilotError):
    """The store is away, refuses us, or lacks the object."""


class ObjectMissing(StoreError):
    """The store answers, and has no object of that name."""


class CannotList(StoreError):
    """The driver has no way to tell which objects there are."""


class SnapshotError(AutopilotError):
    """A snapshot could not be taken, or is not usable."""


# --- Return -------------------------------------------------------------------------------------


class SnapshotDamaged(SnapshotError):
    """What the store gives for a snapshot is not what its manifest says."""


class FirstStartError(AutopilotError):
    """One of the users' first-start scripts has failed; the text shows no statement of it."""


class ComebackError(AutopilotError):
    """A diverged node cannot be saved, trimmed or rebuilt now; the text says why it stays out."""


class BinlogError(ComebackError):
    """A binlog file cannot be read, or holds what this version does not understand."""
