"""Connections to MySQL servers: every one with time limits, every error one of ours.

The hooks log in to their own server over the socket as `autopilot` (with auth_socket, which needs no password, or
else with one that is made anew at each start), and to other servers as MYSQL_REPL_USER, over TLS if they have it
(SPEC 6).
"""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from manager.errors import AccessDenied, MySQLError, ServerOffline, ServerUnreachable, TooManyConnections
from manager.mysql.dialect import NAMES, VARIABLES, Capabilities, Dialect
from manager.settings import Settings

Args = Sequence[object] | Mapping[str, object]

LOCAL_ACCOUNT = "autopilot"
CONNECT_TIMEOUT = 2.0
# Not MySQL's 33062, which is among the ports that connections go out from: while one does, mysqld cannot listen
# there and does not start (seen: nine starts in a row failed).
ADMIN_PORT = 13306

# The server's settings may be a user's own; what our statements rely on is set for the session.
_SESSION = (
    "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 2, innodb_lock_wait_timeout = 2"
)

_TOO_MANY = frozenset({1040, 1203, 1226})
_DENIED = frozenset({1045, 1130, 1251, 1524, 1698, 1820, 1862, 3118, 3159, 3955, 4151})
_OFFLINE = 3032
_LOST = frozenset(
    {1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2005, 2006, 2012, 2013}
)
_LOST_TOO = frozenset({2026, 2055, 4031})
_QUOTES_THE_STATEMENT = frozenset({1064, 1149})


class Connection:
    """One session in autocommit mode; a context manager that closes it.

    Each method raises a `MySQLError`: ServerUnreachable when the connection is lost or the time limit is
    over (the session is of no use after that), and with `errno` for what the server refused.
    """

    def __init__(self, raw: pymysql.Connection[DictCursor], peer: str) -> None:
        # PyMySQL reads its time limits anew for each packet, but has no public name for them.
        self._raw: Any = raw
        self.peer = peer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection_id(self) -> int:
        """The session's number in the server's process list."""
        return int(self._raw.thread_id())

    @property
    def version(self) -> str:
        """The server's version text, as `9.7.4-2`."""
        return str(self._raw.get_server_info())

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the server has; asked once in a session."""
        variables = {row["Variable_name"]: row["Value"] for row in self.rows(VARIABLES)}
        names = [row["name"] for row in self.rows(NAMES)]
        return Capabilities.of(Dialect.of(self.version), variables, names)

    @property
    def read_timeout(self) -> float:
        """The time limit, in seconds, of each answer."""
        return float(self._raw._read_timeout)

    def close(self) -> None:
        """End the session; one that is lost already is no error."""
        with contextlib.suppress(Exception):
            self._raw.close()

    @contextlib.contextmanager
    def timeout(self, seconds: float) -> Iterator[None]:
        """Allow each answer `seconds` within the block, whatever the limit was before."""
        before = self._raw._read_timeout, self._raw._write_timeout
        self._raw._read_timeout = self._raw._write_timeout = seconds
        try:
            yield
        finally:
            self._raw._read_timeout, self._raw._write_timeout = before

    def rows(self, sql: str, args: Args = ()) -> list[dict[str, Any]]:
        """Return all rows. Values are bound as `%s`, or `%(name)s` out of a mapping; only where there are any is
        a literal `%` doubled."""
        with _mapped(self.peer), self._raw.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    def row(self, sql: str, args: Args = ()) -> dict[str, Any] | None:
        """Return the first row, or None."""
        rows = self.rows(sql, args)
        return rows[0] if rows else None

    def value(self, sql: str, args: Args = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        row = self.row(sql, args)
        return next(iter(row.values())) if row else None

    def run(self, sql: str, args: Args = ()) -> None:
        """Execute a statement whose result does not matter."""
        self.rows(sql, args)


def local(
    settings: Settings, *, timeout: float = 1.0, connect_timeout: float = CONNECT_TIMEOUT
) -> Connection:
    """Log in to this node's own server as `autopilot`; `timeout` (seconds) holds for each answer."""
    # TLS over the socket would only cost time: 30 ms instead of 0.3 (facts/fencing.md B).
    options: dict[str, Any] = {
        "unix_socket": str(settings.socket),
        "user": LOCAL_ACCOUNT,
        "ssl_disabled": True,
    }
    if password := local_password(settings):
        options["password"] = password
    return _connect("the local server", options, timeout, connect_timeout)


def client_file(settings: Settings) -> Path:
    """The option file with which MySQL's programs log in as the hooks do; none where auth_socket lets them in."""
    return settings.run_dir / "client.cnf"


def local_password(settings: Settings) -> str | None:
    """Return the password of the hooks' own account, or None where it needs none."""
    try:
        text = client_file(settings).read_text()
    except FileNotFoundError:
        return None
    return next(
        (line.partition(" = ")[2] for line in text.splitlines() if line.startswith("password = ")), None
    )


def remote(
    settings: Settings,
    address: str,
    port: int,
    *,
    timeout: float = 1.0,
    connect_timeout: float = CONNECT_TIMEOUT,
) -> Connection:
    """Log in to the server at address:port as MYSQL_REPL_USER; `timeout` (seconds) holds for each answer.

    It bounds the connecting as well, which never takes longer than `connect_timeout`.

    With this node's `config.admin_address` and ADMIN_PORT it gets in where the socket has too many
    connections.
    """
    if not settings.mysql_repl_user or settings.mysql_repl_password is None:
        raise AccessDenied(
            f"cannot log in to {address}:{port}: MYSQL_REPL_USER and MYSQL_REPL_PASSWORD are not set"
        )
    options = {
        "host": address,
        "port": port,
        "user": settings.mysql_repl_user,
        # PyMySQL sends text as latin-1, MySQL compares UTF-8: hand it the bytes.
        "password": settings.mysql_repl_password.value.encode(),
        "ssl": _tls(),
    }
    return _connect(f"{address}:{port}", options, timeout, min(timeout, connect_timeout))


def quote_name(name: str) -> str:
    """Return a database's or another object's name as a quoted identifier."""
    return "`" + name.replace("`", "``") + "`"


@cache
def _tls() -> ssl.SSLContext:
    """The one TLS context: it encrypts, and does not verify the servers' self-made certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(peer: str, options: dict[str, Any], timeout: float, connect_timeout: float) -> Connection:
    with _mapped(peer):
        raw: Any = pymysql.Connection(
            **options,
            charset="utf8mb4",
            autocommit=True,
            cursorclass=DictCursor,
            connect_timeout=connect_timeout,
            read_timeout=timeout,
            write_timeout=timeout,
            init_command=_SESSION,
            defer_connect=True,
        )
        try:
            raw.connect()
        except pymysql.MySQLError:
            if "ssl" not in options or _offers_tls(raw):
                raise
            plain = {name: value for name, value in options.items() if name != "ssl"}
            return _connect(peer, {**plain, "ssl_disabled": True}, timeout, connect_timeout)
    return Connection(raw, peer)


def _offers_tls(raw: Any) -> bool:
    """True unless the server has said in its greeting that it has no TLS, or none that today's OpenSSL speaks.

    5.7 speaks TLS 1.0 and 1.1 at most (measured). Whoever sits in between could take TLS away like that; he could
    as well end it himself, since no certificate is verified.
    """
    greeting = getattr(raw, "server_capabilities", None)
    return greeting is None or bool(greeting & CLIENT.SSL and not str(raw.server_version).startswith("5."))


@contextlib.contextmanager
def _mapped(peer: str) -> Iterator[None]:
    """Turn what PyMySQL raises into one of our errors: the only place that does."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise _translate(peer, error) from None
    except OSError as error:
        raise ServerUnreachable(f"{peer}: {error}") from None
    except (struct.error, IndexError, ValueError, AssertionError):
        # PyMySQL trips over an answer that is cut short or of another protocol.
        raise ServerUnreachable(f"{peer}: the answer is not MySQL's protocol") from None


def _translate(peer: str, error: pymysql.MySQLError) -> MySQLError:
    errno = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[-1]) if error.args else type(error).__name__
    if errno in _QUOTES_THE_STATEMENT:
        # The server quotes the rest of the statement, which may hold a password.
        text = "syntax error"
    message = f"{peer}: {text or 'the connection is closed'} ({errno})"
    if errno in _TOO_MANY:
        return TooManyConnections(message, errno)
    if errno in _DENIED:
        return AccessDenied(message, errno)
    if errno == _OFFLINE:
        return ServerOffline(message, errno)
    if errno in _LOST or errno in _LOST_TOO or errno == 0:
        # Without a number it is PyMySQL that complains: the session is closed, or out of step.
        return ServerUnreachable(message, errno)
    return MySQLError(message, errno)
