"""The manta driver, against a Manta that is as strict as the real one (test_storage_manta_cli.py)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519

from manager.errors import ConfigError, ObjectMissing
from manager.settings import load
from manager.storage import Store, manta_client
from sandbox.packages import install_programs
from tests.integration.manta_accounts import fingerprint
from tests.integration.manta_server import MantaServer, manta
from tests.integration.manta_stores import (
    BUCKET,
    account,
    environment,
    every_verb,
    one_line,
    pieces,
    private_key,
    store_with,
    text,
)

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MantaServer]:
    with manta(tmp_path / "manta") as running:
        account(running)
        yield running


@pytest.fixture
def store(server: MantaServer) -> Store:
    return store_with(server)


# --- Keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", ["#", "\n"])
@pytest.mark.parametrize("form", ["pem", "pkcs8", "openssh"])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_all_forms_sign(server: MantaServer, kind: str, form: str, newline: str) -> None:
    key = private_key(kind)
    given = text(key, form).replace("\n", newline)
    store = store_with(server, MANTA_PRIVATE_KEY=given, MANTA_KEY_ID=fingerprint(key.public_key()))
    store.put_bytes("signed", b"x")
    assert store.get_bytes("signed") == b"x"
    algorithm = {"rsa": "rsa-sha1", "ecdsa": "ecdsa-sha256"}[kind]
    assert {algorithm in headers["Authorization"] for _, _, headers in server.requests} == {True}


@pytest.mark.parametrize("before", ["", "MD5:", "md5:"])
def test_the_key_id_is_that_of_the_key(server: MantaServer, before: str) -> None:
    right, wrong = (fingerprint(private_key("rsa", number).public_key()) for number in (0, 1))
    store_with(server, MANTA_KEY_ID=before + right).put_bytes("a", b"x")
    store_with(server, MANTA_KEY_ID=before + right.upper()).put_bytes("a", b"x")
    line = one_line(lambda: store_with(server, MANTA_KEY_ID=before + wrong).list(""), ConfigError)
    assert line == f"MANTA_KEY_ID is {wrong}, and MANTA_PRIVATE_KEY is another key: {right}"


def encrypted(form: serialization.PrivateFormat) -> str:
    protection = serialization.BestAvailableEncryption(b"geheim")
    return private_key("rsa").private_bytes(serialization.Encoding.PEM, form, protection).decode()


def other(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey, openssh: bool
) -> str:
    form = serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("no key at all", "is no private key in PEM or OpenSSH format"),
        (text(private_key("rsa"))[:200], "is no private key"),
        (text(private_key("rsa"), "openssh")[:200], "is no private key"),
        (encrypted(serialization.PrivateFormat.TraditionalOpenSSL), "has a passphrase"),
        (encrypted(serialization.PrivateFormat.PKCS8), "has a passphrase"),
        (
            other(ec.generate_private_key(ec.SECP384R1()), False),
            "of the kind secp384r1: Manta takes RSA, and ECDSA",
        ),
        (other(ec.generate_private_key(ec.SECP521R1()), True), "of the kind secp521r1"),
        (other(ed25519.Ed25519PrivateKey.generate(), True), "of the kind Ed25519PrivateKey"),
    ],
)
def test_what_is_no_key_of_mantas(server: MantaServer, key: str, line: str) -> None:
    store = store_with(server, MANTA_PRIVATE_KEY=key.replace("\n", "#"))
    found = one_line(lambda: store.list(""), ConfigError)
    assert found.startswith("MANTA_PRIVATE_KEY ")
    assert line in found
    assert server.requests == []


def test_an_openssh_key_with_a_passphrase(server: MantaServer, tmp_path: Path) -> None:
    install_programs({"ssh-keygen": "openssh-client"})
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "geheim", "-f", str(tmp_path / "key")], check=True)
    store = store_with(server, MANTA_PRIVATE_KEY=(tmp_path / "key").read_text())
    assert "has a passphrase" in one_line(lambda: store.list(""), ConfigError)


# --- Who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"MANTA_USER": "nobody"}, "there is no account MANTA_USER=nobody"),
        ({"MANTA_SUBUSER": "nobody"}, "there is no MANTA_SUBUSER=nobody of MANTA_USER=me"),
        (
            {"MANTA_SUBUSER": "backup"},
            "MANTA_SUBUSER=backup of MANTA_USER=me has no such key as MANTA_PRIVATE_KEY",
        ),
        (
            {"MANTA_PRIVATE_KEY": text(private_key("ecdsa", 1))},
            "MANTA_USER=me has no such key as MANTA_PRIVATE_KEY",
        ),
        ({"MANTA_ROLE": "admin"}, "MANTA_USER=me has no such role as MANTA_ROLE=admin"),
        ({"MANTA_BUCKET": "/other/stor/mysql"}, "MANTA_USER=me may not use .*MANTA_BUCKET=/other/stor/mysql"),
        (
            {"MANTA_URL": "http://127.0.43.20:1"},
            "no server answers at MANTA_URL=http://127.0.43.20:1: .*refused",
        ),
        (
            {"MANTA_URL": "http://none-such.invalid"},
            "cannot be resolved: check MANTA_URL=http://none-such.invalid",
        ),
    ],
)
def test_faults_name_the_setting(server: MantaServer, changes: dict[str, str], line: str) -> None:
    server.add_account("other")
    for call in every_verb(store_with(server, **changes)):
        assert re.search(line, one_line(call))
    assert server.objects() == []


@pytest.mark.parametrize(
    ("name", "line"), [("none", "does not exist; create it"), ("file", "is no directory")]
)
def test_a_bucket_that_is_not_there_is_not_made(server: MantaServer, name: str, line: str) -> None:
    store_with(server, MANTA_BUCKET="/me/stor").put_bytes("file", b"x")
    store = store_with(server, MANTA_BUCKET=f"/me/stor/{name}")
    for call in (
        lambda: store.put_bytes("a", b"x"),
        lambda: store.put_stream("a/b", pieces(2), at_most=2 << 20),
        lambda: store.list("a"),
        lambda: store.list("a/b"),
        lambda: store.clear_leftovers(lambda name: True),
        lambda: store.get_bytes("a"),
    ):
        assert f"MANTA_BUCKET=/me/stor/{name} {line}" in one_line(call)
    one_line(lambda: store.stat("a"), ObjectMissing)
    assert server.objects() == ["/me/stor/file"]


def test_a_user_takes_a_role(server: MantaServer) -> None:
    user = {"MANTA_SUBUSER": "backup", "MANTA_PRIVATE_KEY": text(private_key("rsa", 2))}
    for call in every_verb(store_with(server, **user)):
        assert "MANTA_SUBUSER=backup of MANTA_USER=me may not use" in one_line(call)
    for call in every_verb(store_with(server, **user, MANTA_ROLE="reader")):
        assert "MANTA_SUBUSER=backup of MANTA_USER=me has no such role as MANTA_ROLE=reader" in one_line(call)
    server.requests.clear()
    store = store_with(server, **user, MANTA_ROLE="writer")
    store.put_stream("folder/a", pieces(2), at_most=2 << 20)
    assert store.stat("folder/a").size == 2 << 20
    assert {headers.get("Role") for _, _, headers in server.requests} == {"writer"}
    assert all('keyId="/me/backup/keys/' in headers["Authorization"] for _, _, headers in server.requests)


def test_a_signature_that_does_not_match(server: MantaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with(server)
    wrong = private_key("rsa", 1)
    sign = manta_client.read_key(load(environment(server)))
    sign._signer.priv_key = text(wrong).encode()
    monkeypatch.setattr(manta_client, "read_key", lambda settings: sign)
    for call in every_verb(store):
        assert "MANTA_PRIVATE_KEY is not the key that MANTA_USER=me has" in one_line(call)


@pytest.mark.parametrize("clock", [-400.0, 400.0])
def test_clocks_that_are_too_far_apart(server: MantaServer, store: Store, clock: float) -> None:
    server.trouble.clock = clock / 2
    store.put_bytes("a", b"x")
    server.trouble.clock = clock
    for call in every_verb(store):
        line = one_line(call)
        assert "this machine's clock and that of MANTA_URL are " in line
        assert 390 < int(line.split(" are ")[1].split()[0]) < 410


def test_a_netrc_of_the_same_host_is_not_used(
    server: MantaServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password geheim\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    store.put_bytes("a", b"x")
    assert store.get_bytes("a") == b"x"


# --- Uploads ----------------------------------------------------------------------------------------


def test_a_snapshots_size_is_announced(server: MantaServer, store: Store) -> None:
    server.default_limit = 4 << 20
    store.put_stream("announced", pieces(5), at_most=5 << 20)
    assert store.stat("announced").size == 5 << 20
    line = one_line(lambda: store.put_stream("unknown", pieces(5)))
    assert "unknown is larger than was expected: request has exceeded 4194304 bytes" in line
    line = one_line(lambda: store.put_stream("larger", pieces(9), at_most=2 << 20))
    assert "larger is larger than was expected" in line
    server.room = 1 << 20
    line = one_line(lambda: store.put_stream("room", pieces(9), at_most=9 << 20))
    assert line == f"Manta has no room for room in MANTA_BUCKET={BUCKET}: not enough free space for 10 MB"
    assert server.objects() == [f"{BUCKET}/announced"]
    assert server.files() == 1


def test_a_killed_writer_leaves_nothing(server: MantaServer, store: Store) -> None:
    store.put_bytes("kept", b"old")
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        def chunks():
            for number in range(20):
                yield os.urandom(1 << 20)
            print("half", flush=True)
            sys.stdin.read()
        open_store(load(os.environ)).put_stream("kept", chunks(), at_most=30 << 20)
    """)
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **environment(server), "PYTHONPATH": str(BIN)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    assert server.files() == 2
    assert store.get_bytes("kept") == b"old"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    end = time.monotonic() + 10
    while server.files() == 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert server.files() == 1
    assert store.get_bytes("kept") == b"old"
    assert store.clear_leftovers(lambda name: True) == 0


def test_what_is_damaged_on_the_way_is_noticed(server: MantaServer, store: Store) -> None:
    store.put_stream("whole", pieces(2), at_most=2 << 20)
    server.trouble.damage = True
    assert "whole was damaged on its way from MANTA_URL=" in one_line(lambda: list(store.get_stream("whole")))
    line = one_line(lambda: store.put_stream("streamed", pieces(2), at_most=2 << 20))
    assert "streamed was damaged on its way to MANTA_URL=" in line
    assert "ContentMD5Mismatch" in one_line(lambda: store.put_bytes("small", b"x"))
    assert server.objects() == [f"{BUCKET}/whole"]


def test_a_folder_is_no_object(server: MantaServer, store: Store) -> None:
    store.put_bytes("a/b", b"x")
    for missing in (lambda: store.stat("a"), lambda: store.get_bytes("a")):
        assert one_line(missing, ObjectMissing) == f"a is not in MANTA_BUCKET={BUCKET}"
    assert "InvalidUpdate" in one_line(lambda: store.put_bytes("a", b"y"))
    line = one_line(lambda: store.put_stream("a", pieces(1), at_most=1 << 20))
    assert line == f"a was not stored: there is a directory {BUCKET}/a"
    store.delete("a")
    assert server.objects() == [f"{BUCKET}/a/b"]
    assert store.list("a/b/") == []  # an object is no folder either


# --- Setting up ----------------------------------------------------------------------------------


def test_making_a_store_asks_nobody(server: MantaServer) -> None:
    store_with(server, MANTA_URL="http://none-such.invalid", MANTA_PRIVATE_KEY="no key")
    assert server.requests == []


@pytest.mark.parametrize("missing", ["MANTA_URL", "MANTA_USER", "MANTA_PRIVATE_KEY", "MANTA_BUCKET"])
def test_what_is_needed_is_named(server: MantaServer, missing: str) -> None:
    assert f"{missing} is missing, although MANTA_" in one_line(
        lambda: store_with(server, **{missing: ""}), ConfigError
    )


def test_the_sdk_brings_no_library_along() -> None:
    program = "import sys, manager.storage.manta; print(sorted({'httplib2', 'paramiko', 'bcrypt'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
