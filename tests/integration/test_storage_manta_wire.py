"""The manta driver and what a network or a busy server does to it: broken, slow and refused requests, https, memory."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from manager.errors import StoreError
from manager.settings import load
from manager.storage import Store, manta_client
from tests.integration.manta_server import MantaServer, manta
from tests.integration.manta_stores import (
    BUCKET,
    account,
    environment,
    every_verb,
    one_line,
    pieces,
    store_with,
)

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture(autouse=True)
def no_authorities_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MantaServer]:
    with manta(tmp_path / "manta") as running:
        account(running)
        yield running


@pytest.fixture
def store(server: MantaServer) -> Store:
    return store_with(server)


# --- Connections ------------------------------------------------------------------------------------


def test_a_download_that_ends_early_is_noticed(server: MantaServer, store: Store) -> None:
    store.put_stream("cut", pieces(5), at_most=5 << 20)
    server.trouble.cut_after = 3 << 20
    with pytest.raises(StoreError, match="the connection to MANTA_URL=.* failed: ProtocolError"):
        list(store.get_stream("cut"))


def test_one_connection_does_for_small_requests(server: MantaServer, store: Store) -> None:
    store.put_bytes("a", b"x")
    store.put_stream("b", pieces(2), at_most=2 << 20)
    assert store.get_bytes("a") == b"x"
    assert [each.name for each in store.list("")] == ["a", "b"]
    store.stat("b")
    store.delete("b")
    assert len(set(server.ports)) == 1
    next(store.get_stream("a"))
    store.put_stream("c", pieces(20), at_most=20 << 20)
    next(store.get_stream("c"))  # given up in the middle: such a connection is no good for the next request
    assert store.stat("c").size == 20 << 20
    assert len(set(server.ports)) <= 3


def test_a_busy_server_is_asked_again(server: MantaServer, store: Store) -> None:
    store.put_bytes("a", b"x")
    server.trouble.busy = ["DELETE"]
    begin = time.monotonic()
    store.delete("a")
    assert time.monotonic() - begin > 0.99  # Retry-After was 1
    dates = [headers["Date"] for method, _, headers in server.requests if method == "DELETE"]
    assert len(set(dates)) == 2  # and each attempt is signed anew
    server.trouble.busy, server.trouble.retry_after = ["GET", "HEAD", "PUT"], "0"
    store.put_bytes("a", b"y")
    assert store.stat("a").size == 1
    assert server.trouble.busy == []


def test_a_busy_server_is_not_asked_for_ever(server: MantaServer, store: Store) -> None:
    server.trouble.busy = ["GET"] * 4
    server.trouble.retry_after = "0"
    line = one_line(lambda: store.list(""))
    assert "No storage nodes available for this request (503, Retry-After 0 s)" in line
    assert server.trouble.busy == ["GET"]
    server.trouble.retry_after = "86400"
    begin = time.monotonic()
    assert "Retry-After 86400 s" in one_line(lambda: store.list(""))
    assert time.monotonic() - begin < 5


def test_a_stream_that_is_refused_is_not_sent_again(server: MantaServer, store: Store) -> None:
    server.trouble.busy = ["PUT"]
    sent = []

    def chunks() -> Iterator[bytes]:
        for piece in pieces(3):
            sent.append(len(piece))
            yield piece

    assert "puts stream off" in one_line(lambda: store.put_stream("stream", chunks(), at_most=3 << 20))
    assert len(sent) <= 3
    assert server.objects() == []


def test_a_connection_that_ended_meanwhile_is_made_again(server: MantaServer, store: Store) -> None:
    store.put_bytes("a", b"x")
    server.trouble.hang_up = 2
    assert store.get_bytes("a") == b"x"
    server.trouble.hang_up = 3
    assert "the connection to MANTA_URL=" in one_line(lambda: store.get_bytes("a"))


def test_a_server_that_never_answers(
    server: MantaServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manta_client, "READ", 0.5)
    server.trouble.silence = 1.5
    begin = time.monotonic()
    assert "does not answer in time" in one_line(lambda: store.list(""))
    assert time.monotonic() - begin < 1.4
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        store = store_with(server, MANTA_URL=f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert "does not answer in time" in one_line(lambda: store.put_bytes("a", b"x"))


def test_a_server_that_sends_one_byte_at_a_time(
    server: MantaServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_stream("slow", pieces(1), at_most=1 << 20)
    monkeypatch.setattr(manta_client, "READ", 1.0)
    server.trouble.slow = 0.1
    begin = time.monotonic()
    assert "does not answer in time" in one_line(lambda: list(store.get_stream("slow")))
    assert time.monotonic() - begin < 5


def test_a_server_that_takes_no_more_of_an_upload(
    server: MantaServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manta_client, "CONNECT", 0.2)
    server.trouble.stall = 1.0
    store.put_stream("patient", pieces(40), at_most=40 << 20)
    assert store.stat("patient").size == 40 << 20
    monkeypatch.setattr(manta_client, "READ", 0.5)
    store = store_with(server)
    line = one_line(lambda: store.put_stream("stalled", pieces(40), at_most=40 << 20))
    assert "does not answer in time" in line
    assert server.objects() == [f"{BUCKET}/patient"]


def test_more_objects_than_one_answer_lists(server: MantaServer, store: Store) -> None:
    store.put_bytes("n/0000", b"x")
    entry = server.entries[f"{BUCKET}/n/0000"]
    names = [f"n/{number:04}" for number in range(2001)]
    server.entries.update({f"{BUCKET}/{name}": entry for name in names})
    assert [each.name for each in store.list("n/")] == names
    assert [each.name for each in store.list("n/1")] == names[1000:2000]
    # The SDK drops the first entry of each page but the first: the server's must be the one that was asked from.
    assert [f"n/{name}" for name in manta_client.Client(load(environment(server))).ls(f"{BUCKET}/n")] == names


def test_what_is_no_manta_at_all(server: MantaServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes("a", b"x")
    monkeypatch.setattr("tests.integration.manta_server._line", lambda name, entry: ["no", "entry"])
    assert "does not answer as Manta does" in one_line(lambda: store.list(""))


# --- https ------------------------------------------------------------------------------------------


def certificate(
    subject: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for 127.0.0.1, or, without an issuer, that of an authority; strict enough for Python 3.13."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    signer = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, issuer is None, issuer is None, False, False),
            critical=True,
        )
    )
    if issuer is not None:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[MantaServer]:
    """A server with https alone; `tmp_path/ca.pem` is its authority."""
    authority = certificate("an authority")
    leaf, key = certificate("a server", authority)
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(authority[0].public_bytes(pem))
    options = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.pem").write_bytes(key.private_bytes(*options) + leaf.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with manta(tmp_path / "manta", tls=context, secure_only=True) as running:
        account(running)
        yield running


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_https_with_an_authority_of_ones_own(
    secure: MantaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """SSL_CERT_FILE is where OpenSSL looks for the system's own list."""
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    store = store_with(secure)
    content = os.urandom(3_000_001)
    store.put_stream("a", iter([content]), at_most=len(content))
    assert b"".join(store.get_stream("a")) == content
    assert [each.name for each in store.list("")] == ["a"]


def test_https_with_an_authority_that_nobody_knows(
    secure: MantaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with(secure)
    for call in every_verb(store):
        assert "the certificate of MANTA_URL=https://127.0.0.1" in one_line(call)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    line = one_line(lambda: store_with(secure).list(""))
    assert line == "REQUESTS_CA_BUNDLE names no file and no directory that is there"
    assert secure.requests == []


def test_http_where_only_https_is_served(tmp_path: Path) -> None:
    with manta(tmp_path / "manta", secure_only=True) as server:
        account(server)
        for call in every_verb(store_with(server)):
            assert one_line(call) == f"MANTA_URL={server.url} must be an https URL"


# --- Cost -------------------------------------------------------------------------------------------


def test_memory_stays_the_same_whatever_the_size(server: MantaServer) -> None:
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        store, size = open_store(load(os.environ)), int(sys.argv[1])
        block = os.urandom(1 << 20)
        store.put_stream("large", (block for _ in range(size)), at_most=size << 20)
        assert sum(len(chunk) for chunk in store.get_stream("large")) == size << 20
        store.delete("large")
        status = open("/proc/self/status").read()
        print(status.partition("VmHWM:")[2].split()[0])
    """)
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", program, megabytes],
                env={**os.environ, **environment(server), "PYTHONPATH": str(BIN)},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            ).stdout
        )
        for megabytes in ("4", os.environ.get("MANTA_MEGABYTES", "100"))
    ]
    print(f"kilobytes: {peaks}")
    assert peaks[1] < peaks[0] + 16_000, f"kilobytes: {peaks}"
    assert peaks[1] < 100_000, f"kilobytes: {peaks}"
