"""The s3 driver against a real S3 server (addresses 127.0.43.1 to .19, one for each worker)."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.errors import ConfigError, ObjectMissing, StoreError
from manager.settings import load
from manager.storage import Store, open_store, s3_connection
from manager.storage import s3 as s3_module
from manager.storage.s3 import MIB, S3Store, part_size
from sandbox import servers
from sandbox.packages import Packages
from tests.integration.wire import Line

ADDRESS = f"127.0.43.{1 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])}"
SECRET = "s3-secret-1234567890"
BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture(scope="module")
def server(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    directory = tmp_path_factory.mktemp("s3")
    with servers.s3_server(
        packages, directory, address=ADDRESS, access_key="key", secret_key=SECRET
    ) as running:
        yield running


def environment(server: servers.S3, **changes: str) -> dict[str, str]:
    return {
        "BACKUP_DRIVER": "s3",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_BUCKET": "backups",
        "AWS_ACCESS_KEY": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": "127.0.0.1",
        **changes,
    }


def store_with(server: servers.S3, **changes: str) -> Store:
    return open_store(load(environment(server, **changes)))


@pytest.fixture
def store(server: servers.S3) -> Store:
    return store_with(server)


def uploads(store: Store) -> list[str]:
    """The names of uploads that were begun and neither completed nor aborted."""
    assert isinstance(store, S3Store)
    found = store._client.list_multipart_uploads(Bucket="backups")
    return sorted(each["Key"] for each in found.get("Uploads", ()))


def pieces(total: int, piece: int = 700_001) -> Iterator[bytes]:
    block = os.urandom(piece)
    for start in range(0, total, piece):
        yield block[: min(piece, total - start)]


@pytest.mark.parametrize("size", [0, 1, 15 * MIB, 15 * MIB + 1, 50 * MIB])
def test_what_is_stored_comes_back(store: Store, size: int) -> None:
    content = b"".join(pieces(size))
    name = f"round/trip-{size}"
    assert store.put_stream(name, iter([content[:1000], content[1000:]]), at_most=1) == f"backups/{name}"
    assert b"".join(store.get_stream(name)) == content
    assert store.stat(name).size == size
    assert [each.name for each in store.list(name)] == [name]
    store.delete(name)
    store.delete(name)
    with pytest.raises(ObjectMissing, match=name):
        store.stat(name)


def test_the_two_verbs_of_the_contract(server: servers.S3, tmp_path: Path) -> None:
    store = store_with(server, SCRATCH_DIR=str(tmp_path / "scratch"))
    (tmp_path / "file").write_bytes(b"rows")
    assert store.put_backup("contract", str(tmp_path / "file")) == "backups/contract"
    assert store.get_backup("contract") == str(tmp_path / "scratch" / "contract")
    assert (tmp_path / "scratch" / "contract").read_bytes() == b"rows"
    with pytest.raises(ObjectMissing):
        store.get_backup("none")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["contract"]


def test_a_producer_that_fails_leaves_nothing(store: Store) -> None:
    def failing() -> Iterator[bytes]:
        yield from pieces(40 * MIB)
        raise RuntimeError("disk died")

    with pytest.raises(RuntimeError, match="disk died"):
        store.put_stream("failing", failing(), at_most=1)
    with pytest.raises(ObjectMissing):
        next(store.get_stream("failing"))
    assert "failing" not in uploads(store)


def test_a_failed_overwrite_keeps_the_old_object(store: Store) -> None:
    store.put_bytes("kept", b"old")

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put_stream("kept", failing())
    assert store.get_bytes("kept") == b"old"


def test_a_killed_writer_leaves_nothing_visible_and_the_next_one_clears_up(
    server: servers.S3, store: Store
) -> None:
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        def chunks():
            for number in range(40):
                yield os.urandom(1 << 20)
            print("half", flush=True)
            sys.stdin.read()
        open_store(load(os.environ)).put_stream("mysql-backup-killed", chunks(), at_most=1)
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
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    assert store.list("mysql-backup-killed") == []
    assert uploads(store) == ["mysql-backup-killed"]
    assert store.clear_leftovers(lambda name: name.startswith("another")) == 0
    assert store.clear_leftovers(lambda name: name.startswith("mysql-backup-")) == 1
    assert uploads(store) == []


def test_memory_stays_the_same_whatever_the_size(server: servers.S3) -> None:
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        store = open_store(load(os.environ))
        block = os.urandom(1 << 20)
        store.put_stream("large", (block for _ in range(int(sys.argv[1]))), at_most=1)
        assert sum(len(chunk) for chunk in store.get_stream("large")) == int(sys.argv[1]) << 20
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
        for megabytes in ("40", "400")
    ]
    assert peaks[1] < peaks[0] + 16_000, f"kilobytes: {peaks}"
    assert peaks[1] < 80_000, f"kilobytes: {peaks}"


def test_parts_fit_the_size() -> None:
    assert part_size(0) == 32 * MIB
    assert part_size(1) == 5 * MIB
    for size in (10**9, 10**12, 4 * 10**12):
        assert part_size(size) % MIB == 0
        assert part_size(size) * 10_000 >= size


def test_two_parts_are_on_their_way_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    send = S3Store._send

    def together(self: S3Store, name: str, upload: str, number: int, part: io.BytesIO) -> dict[str, Any]:
        if number <= 4:
            both.wait(10)
        return send(self, name, upload, number, part)

    monkeypatch.setattr(S3Store, "_send", together)
    content = b"".join(pieces(28 * MIB))
    store.put_stream("two-at-once", [content], at_most=1)
    assert b"".join(store.get_stream("two-at-once")) == content
    store.delete("two-at-once")


def test_a_part_that_fails_ends_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    send = S3Store._send
    asked = 0

    def third_fails(self: S3Store, name: str, upload: str, number: int, part: io.BytesIO) -> dict[str, Any]:
        if number == 3:
            raise StoreError("the third part failed")
        return send(self, name, upload, number, part)

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(MIB)

    monkeypatch.setattr(S3Store, "_send", third_fails)
    with pytest.raises(StoreError, match="the third part failed"):
        store.put_stream("third-fails", endless(), at_most=1)
    assert asked <= 5 * 5
    assert "third-fails" not in uploads(store)
    assert store.list("third-fails") == []


def test_more_parts_than_s3_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PARTS", 2)
    with pytest.raises(StoreError, match="more than 2 parts"):
        store.put_stream("many", pieces(50 * MIB), at_most=1)
    assert "many" not in uploads(store)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-0987654321"}, "AWS_SECRET_ACCESS_KEY is wrong"),
        ({"AWS_ACCESS_KEY": "nobody"}, "AWS_ACCESS_KEY is unknown"),
        ({"AWS_BUCKET": "none-such"}, "AWS_BUCKET=none-such"),
        ({"AWS_BUCKET": "no/bucket"}, "AWS_BUCKET=no/bucket"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.43.20:1"},
            "no S3 server answers at http://127.0.43.20:1.*refused",
        ),
        ({"AWS_ENDPOINT_URL": "http://none-such.invalid:8333"}, "cannot be resolved.*AWS_ENDPOINT_URL"),
    ],
)
def test_faults_name_the_setting(server: servers.S3, changes: dict[str, str], line: str) -> None:
    store = store_with(server, **changes)
    for call in (
        lambda: store.put_stream("fault", [b"x"]),
        lambda: store.put_stream("fault", pieces(17 * MIB), at_most=1),
        lambda: list(store.get_stream("fault")),
        lambda: store.list("fault"),
    ):
        with pytest.raises(StoreError, match=line) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        for secret in (SECRET, "wrong-secret-0987654321"):
            assert secret not in text


def test_a_bucket_that_the_key_may_not_use(server: servers.S3) -> None:
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY may not use .* in AWS_BUCKET=forbidden"):
        store_with(server, AWS_BUCKET="forbidden").list("")


def test_a_server_that_never_answers(server: servers.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        s3_module,
        "LIMITS",
        s3_module.LIMITS.merge(s3_module.Config(read_timeout=1, retries={"total_max_attempts": 1})),
    )
    with socket.socket() as mute:
        mute.bind((ADDRESS, 0))
        mute.listen()
        store = store_with(server, AWS_ENDPOINT_URL=f"http://{ADDRESS}:{mute.getsockname()[1]}")
        with pytest.raises(StoreError, match="does not answer in time"):
            store.list("")


def test_no_credentials_anywhere(server: servers.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    store = store_with(server, AWS_ACCESS_KEY="", AWS_SECRET_ACCESS_KEY="")
    with pytest.raises(StoreError, match="no credentials for S3: set AWS_ACCESS_KEY"):
        store.list("")


def test_the_usual_chain_of_credentials(server: servers.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    store = store_with(server, AWS_ACCESS_KEY="", AWS_SECRET_ACCESS_KEY="")
    store.put_bytes("chained", b"x")
    assert store.get_bytes("chained") == b"x"


def test_the_old_name_of_the_default_region(server: servers.S3) -> None:
    store = store_with(server, AWS_REGION="us-standard")
    assert isinstance(store, S3Store)
    assert store._client.meta.region_name == "us-east-1"


def test_a_bad_endpoint_is_wrong_configuration(server: servers.S3) -> None:
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        store_with(server, AWS_ENDPOINT_URL="http://a b:1").list("")


def test_making_a_store_asks_nobody(server: servers.S3) -> None:
    assert isinstance(store_with(server, AWS_ENDPOINT_URL="http://none-such.invalid"), S3Store)


# --- Slow networks ------------------------------------------------------------------------------------


@pytest.fixture
def line(server: servers.S3) -> Iterator[Line]:
    made = Line(ADDRESS, ADDRESS, port=8334, target_port=8333)
    yield made
    made.refuse()


def test_a_slow_network_is_no_failure(
    server: servers.S3, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part takes longer than connecting may."""
    limits = s3_module.Config(connect_timeout=1, retries={"total_max_attempts": 1})
    monkeypatch.setattr(s3_module, "LIMITS", s3_module.LIMITS.merge(limits))
    line.rate = 4 * MIB
    store = store_with(server, AWS_ENDPOINT_URL=line.url)
    store.put_stream("slow", pieces(20 * MIB), at_most=20 * MIB)
    assert store.stat("slow").size == 20 * MIB


@pytest.mark.parametrize("verb", ["get", "list", "put"])
def test_a_network_that_trickles_is_given_up(
    server: servers.S3, line: Line, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store_with(server).put_bytes("trickled", bytes(100_000))
    monkeypatch.setattr(s3_connection, "READ", 1.0)
    monkeypatch.setattr(
        s3_module, "LIMITS", s3_module.LIMITS.merge(s3_module.Config(retries={"total_max_attempts": 1}))
    )
    store = store_with(server, AWS_ENDPOINT_URL=line.url)
    store.list("none")  # the connection is there
    line.answer_rate = 20.0
    if verb == "put":
        line.rate = 1000.0
    calls = {
        "get": lambda: list(store.get_stream("trickled")),
        "list": lambda: store.list("trickled"),
        "put": lambda: store.put_stream("trickled", pieces(15 * MIB), at_most=15 * MIB),
    }
    begin = time.monotonic()
    with pytest.raises(StoreError, match="does not answer in time"):
        calls[verb]()
    assert time.monotonic() - begin < 10
