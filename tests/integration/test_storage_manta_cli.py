"""The tests' own Manta, checked with Joyent's command line: a client that nobody here has written."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from manager.settings import load
from manager.storage.manta_key import read_key
from sandbox.packages import npm_package
from tests.integration.manta_accounts import fingerprint
from tests.integration.manta_server import MantaServer, manta
from tests.integration.manta_stores import environment, private_key, text


class Joyent:
    """The commands of npm's `manta`, with a key and a server."""

    def __init__(self, server: MantaServer, home: Path, kind: str) -> None:
        key = private_key(kind)
        (home / ".ssh").mkdir(mode=0o700, parents=True)
        (home / ".ssh" / "id_rsa").write_text(text(key))
        (home / ".ssh" / "id_rsa").chmod(0o600)
        self.directory = npm_package("manta", "5.4.2")
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "MANTA_URL": server.url,
            "MANTA_USER": "me",
            "MANTA_KEY_ID": fingerprint(key.public_key()),
        }

    def run(
        self, command: str, *arguments: str, stdin: bytes = b"", **environ: str
    ) -> tuple[int, bytes, str]:
        done = subprocess.run(
            [str(self.directory / "bin" / command), *arguments],
            env={**self.environ, **environ},
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    def __call__(self, command: str, *arguments: str, stdin: bytes = b"") -> bytes:
        code, out, error = self.run(command, *arguments, stdin=stdin)
        assert code == 0, error
        return out


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MantaServer]:
    with manta(tmp_path / "manta") as running:
        account = running.add_account(
            "me", private_key("rsa").public_key(), private_key("ecdsa").public_key()
        )
        account.users["backup"] = [private_key("rsa").public_key()]
        account.roles["writer"] = {"backup"}
        yield running


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_it_stores_lists_retrieves_and_removes(server: MantaServer, tmp_path: Path, kind: str) -> None:
    joyent = Joyent(server, tmp_path / "home", kind)
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    joyent("mmkdir", "-p", "/me/stor/one/two")
    joyent("mput", "-q", "--md5", "-f", str(tmp_path / "file"), "/me/stor/one/two/file")
    joyent("mput", "-q", "/me/stor/one/streamed", stdin=content)
    assert server.objects() == ["/me/stor/one/streamed", "/me/stor/one/two/file"]
    assert joyent("mls", "/me/stor/one").split() == [b"streamed", b"two/"]
    assert b"3000000" in joyent("mls", "-l", "/me/stor/one/two")
    assert joyent("mget", "-q", "/me/stor/one/two/file") == content
    assert joyent("mget", "-q", "/me/stor/one/streamed") == content
    assert b"content-length: 3000000" in joyent("minfo", "/me/stor/one/streamed").lower()
    code, _, error = joyent.run("mrmdir", "/me/stor/one")
    assert code != 0
    assert "DirectoryNotEmpty" in error
    joyent("mrm", "-r", "/me/stor/one")
    assert server.objects() == []
    assert server.files() == 0


def test_it_pages_through_a_large_directory(server: MantaServer, tmp_path: Path) -> None:
    joyent = Joyent(server, tmp_path / "home", "ecdsa")
    names = [f"{number:04}" for number in range(2500)]
    entry = server.entries["/me/stor"]
    server.entries.update({f"/me/stor/{name}": entry for name in names})
    assert joyent("mls", "/me/stor").decode().replace("/", "").split() == names
    assert sum(method == "GET" for method, _, _ in server.requests) > 2


@pytest.mark.parametrize(
    ("command", "changes", "clock", "said"),
    [
        (("mls", "/me/stor"), {"MANTA_USER": "nobody"}, 0.0, "AccountDoesNotExist"),
        (("mls", "/me/stor"), {"MANTA_SUBUSER": "nobody"}, 0.0, "UserDoesNotExist"),
        (("mls", "/me/stor"), {"MANTA_SUBUSER": "backup"}, 0.0, "NoMatchingRoleTag"),
        (("mls", "--role=reader", "/me/stor"), {"MANTA_SUBUSER": "backup"}, 0.0, "InvalidRole"),
        (("mls", "/other/stor"), {}, 0.0, "AuthorizationFailed"),
        (("mls", "/me/stor"), {}, 400.0, "clock skew"),
        (("mls", "/me/stor/none"), {}, 0.0, "ResourceNotFound"),
        (("mput", "-q", "/me/stor/none/file"), {}, 0.0, "DirectoryDoesNotExist"),
    ],
)
def test_it_understands_what_is_refused(
    server: MantaServer,
    tmp_path: Path,
    command: tuple[str, ...],
    changes: dict[str, str],
    clock: float,
    said: str,
) -> None:
    server.add_account("other")
    joyent = Joyent(server, tmp_path / "home", "rsa")
    server.trouble.clock = clock
    code, _, error = joyent.run(*command, stdin=b"x", **changes)
    assert code != 0
    assert said in error
    assert server.objects() == []


def test_it_signs_as_a_user_with_a_role(server: MantaServer, tmp_path: Path) -> None:
    joyent = Joyent(server, tmp_path / "home", "rsa")
    code, _, error = joyent.run(
        "mput", "-q", "--role=writer", "/me/stor/a", stdin=b"x", MANTA_SUBUSER="backup"
    )
    assert (code, error) == (0, "")
    assert server.objects() == ["/me/stor/a"]


def test_a_key_of_another_account_is_no_key(server: MantaServer, tmp_path: Path) -> None:
    server.accounts["me"].keys = [private_key("rsa", 1).public_key()]
    code, _, error = Joyent(server, tmp_path / "home", "rsa").run("mls", "/me/stor")
    assert code != 0
    assert "KeyDoesNotExist" in error


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("Content-Length: 100", b"x" * 99),
        ("Transfer-Encoding: chunked", b"64\r\n" + b"x" * 100 + b"\r\n"),
        ("Transfer-Encoding: chunked", b"64\r\n" + b"x" * 99),
    ],
)
def test_an_upload_that_breaks_off_is_forgotten(server: MantaServer, header: str, sent: bytes) -> None:
    """What no client does on purpose."""
    key = read_key(load({**environment(server), "MANTA_BUCKET": "/me/stor"}))
    date = formatdate(usegmt=True)
    lines = ["PUT /me/stor/a HTTP/1.1", "Host: manta", header, f"Date: {date}"]
    head = "\r\n".join([*lines, f"Authorization: {key.authorization(date)}", "", ""]).encode()

    def put(body: bytes) -> bytes:
        with socket.create_connection(server.server_address[:2], timeout=10) as connection:
            connection.sendall(head + body)
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").readline()

    assert put(sent) == b""
    assert (server.objects(), server.files()) == ([], 0)
    rest = (
        b"x" if header.startswith("Content") else b"x\r\n0\r\n\r\n" if sent.endswith(b"x") else b"0\r\n\r\n"
    )
    assert put(sent + rest) == b"HTTP/1.1 204 No Content\r\n"
    assert server.objects() == ["/me/stor/a"]
