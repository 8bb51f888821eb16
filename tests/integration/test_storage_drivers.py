"""What the drivers have in common, the local driver, and drivers of one's own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import CannotList, ConfigError, LockLost, ObjectMissing, StoreError
from manager.settings import load
from manager.storage import Store, base, open_store
from tests.documents import ROOT, the_block
from tests.integration.limits import no_large_files
from tests.integration.manta_server import manta
from tests.integration.manta_stores import environment as manta_environment
from tests.integration.manta_stores import private_key

BASE = {"NODE_NAME": "node-1", "NODE_ADDRESS": "127.0.0.1"}


def local_environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "store").mkdir(exist_ok=True)
    return {
        **BASE,
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(tmp_path / "store"),
        "SCRATCH_DIR": str(tmp_path / "scratch"),
    }


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(load(local_environment(tmp_path)))


@pytest.fixture(params=["local", "manta"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each driver that streams and can be had without a program of its own (s3: test_storage_s3.py)."""
    if request.param == "local":
        yield open_store(load(local_environment(tmp_path)))
        return
    with manta(tmp_path / "manta") as server:
        server.add_account("me", private_key("rsa").public_key())
        server.make_directory("/me/stor/mysql")
        yield open_store(load(manta_environment(server, SCRATCH_DIR=str(tmp_path / "scratch"))))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The driver of the documentation, word for word."""
    (tmp_path / "folder_driver.py").write_text(the_block(__file__, "own").text)
    (tmp_path / "folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "folder_driver", raising=False)
    monkeypatch.setenv("BACKUP_FOLDER", str(tmp_path / "folder"))
    monkeypatch.setenv("SCRATCH_DIR", str(tmp_path / "scratch"))
    return open_store(
        load({**BASE, "BACKUP_DRIVER": "folder_driver:Folder", "SCRATCH_DIR": str(tmp_path / "scratch")})
    )


def failing() -> Iterator[bytes]:
    yield b"half"
    raise RuntimeError("disk died")


# --- What all of them have in common ------------------------------------------------------------


def test_what_is_stored_is_listed_retrieved_and_deleted(store: Store) -> None:
    path = store.put_stream("a/b", iter([b"one", b"", b"two"]), at_most=6)
    assert path.endswith("/a/b")
    assert store.get_bytes("a/b") == b"onetwo"
    store.put_bytes("a-c", b"")
    assert [(each.name, each.size) for each in store.list("a")] == [("a-c", 0), ("a/b", 6)]
    assert [each.name for each in store.list("a/")] == ["a/b"]
    assert [each.name for each in store.list("a/b")] == ["a/b"]
    assert store.list("b") == store.list("none/such") == []
    assert store.stat("a/b").size == 6
    for found in (store.stat("a/b"), *store.list("a/b")):
        assert abs(found.mtime - time.time()) < 60
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(ObjectMissing, match="a/b is not in"):
        next(store.get_stream("a/b"))
    with pytest.raises(ObjectMissing):
        store.stat("a/b")


@pytest.mark.parametrize("error", [RuntimeError("disk died"), OSError("disk died"), LockLost("disk died")])
def test_a_producer_that_fails_leaves_nothing(store: Store, error: Exception) -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(200_000)
        raise error

    store.put_bytes("kept", b"old")
    for name in ("kept", "new"):
        with pytest.raises(type(error)) as caught:
            store.put_stream(name, failing(), at_most=1 << 20)
        assert caught.value is error
    assert [each.name for each in store.list("")] == ["kept"]
    assert store.get_bytes("kept") == b"old"
    assert store.clear_leftovers(lambda name: True) == 0


def test_get_backup_retrieves_to_the_scratch_directory(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"rows")
    store.put_backup("b", tmp_path / "file")
    assert store.get_backup("b") == str(tmp_path / "scratch" / "b")
    assert (tmp_path / "scratch" / "b").read_bytes() == b"rows"
    with pytest.raises(StoreError, match="cannot read .*none: No such file"):
        store.put_backup("c", tmp_path / "none")


def test_the_disk_begins_before_a_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []

    def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert os.fstat(descriptor).st_size == offset + size
        begun.append((offset, size))
        raise OSError("not here")

    monkeypatch.setattr(base, "SPAN", 1000)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    chunks = [bytes([number]) * 300 for number in range(10)]
    base.write_file(tmp_path / "file", chunks)
    assert begun == [(0, 1200), (1200, 1200)]
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)


def test_a_manifest_is_small(store: Store) -> None:
    store.put_stream("large", iter([bytes(1 << 20), b"x"]))
    with pytest.raises(StoreError, match="larger than"):
        store.get_bytes("large")


@pytest.mark.parametrize(
    "name", ["", ".hidden", "a/.hidden", "..", "a/../b", "/a", "a/", "a//b", "ü", "a b", "a" * 201]
)
def test_names_that_no_store_takes(store: Store, name: str) -> None:
    for call in (
        lambda: store.put_bytes(name, b"x"),
        lambda: store.get_bytes(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(StoreError, match="cannot be the name"):
            call()


@pytest.mark.parametrize("name", ["_A-z0.9+=@%,:~/~", "a%2Fb%20c+d"])
def test_the_strangest_names_that_every_store_takes(store: Store, name: str) -> None:
    store.put_bytes(name, b"x")
    assert [each.name for each in store.list("")] == [name]
    assert store.get_bytes(name) == b"x"
    assert store.stat(name).size == 1
    store.delete(name)
    assert store.list("") == []


# --- local --------------------------------------------------------------------------------------


def test_local_files_are_for_their_owner_alone(local: Store, tmp_path: Path) -> None:
    path = local.put_stream("a/b", [b"one", b"two"])
    assert path == str(tmp_path / "store" / "a" / "b")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(ObjectMissing, match="none is not in STORAGE_DIR"):
        local.get_bytes("none")
    with pytest.raises(RuntimeError, match="disk died"):
        local.put_stream("new", failing())
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []


def test_local_leftovers_of_a_killed_writer_go_and_a_living_one_stays(local: Store, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        def chunks():
            yield b"x" * 100000
            print("half", flush=True)
            sys.stdin.read()
        open_store(load(os.environ)).put_stream("mysql-backup/1", chunks())
    """)
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **local_environment(tmp_path), "PYTHONPATH": str(ROOT / "bin")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    asked = []

    def ours(name: str) -> bool:
        asked.append(name)
        return name == "mysql-backup/1"

    assert local.clear_leftovers(ours) == 0
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    assert local.list("") == []
    assert local.clear_leftovers(lambda name: False) == 0
    assert local.clear_leftovers(ours) == 1
    assert set(asked) == {"mysql-backup/1"}
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []


@pytest.mark.parametrize("size", [1000, (1 << 20) - 1])
def test_local_disk_that_is_full(local: Store, tmp_path: Path, size: int) -> None:
    """In one line, and without what a part of has been written."""
    with no_large_files(), pytest.raises(StoreError, match="File too large") as caught:
        local.put_stream("a", iter([bytes(size)] * 2000))
    assert str(caught.value).startswith(f"STORAGE_DIR {tmp_path / 'store'}: ")
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_local_directory_that_is_missing(tmp_path: Path) -> None:
    environment = {**local_environment(tmp_path), "STORAGE_DIR": str(tmp_path / "none")}
    store = open_store(load(environment))
    for call in (
        lambda: store.put_bytes("a", b"x"),
        lambda: store.get_bytes("a"),
        lambda: store.list(""),
        lambda: store.clear_leftovers(lambda name: True),
    ):
        with pytest.raises(StoreError, match=f"STORAGE_DIR {tmp_path}/none is no directory"):
            call()


# --- one's own ----------------------------------------------------------------------------------


def test_own_driver_of_the_documentation_works(own: Store, tmp_path: Path) -> None:
    assert own.put_stream("one", [b"a", b"b"]) == str(tmp_path / "folder" / "one")
    assert b"".join(own.get_stream("one")) == b"ab"
    assert own.get_bytes("one") == b"ab"
    assert own.get_backup("one") == str(tmp_path / "scratch" / "one")
    assert (tmp_path / "scratch" / "one").read_bytes() == b"ab"


def test_own_driver_spools_and_leaves_no_files(own: Store, tmp_path: Path) -> None:
    own.put_stream("one", [b"a"])
    assert b"".join(own.get_stream("one")) == b"a"
    with pytest.raises(RuntimeError, match="disk died"):
        own.put_stream("two", failing())
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["one"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_own_driver_object_that_is_missing_is_no_older_copy(own: Store, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "none").write_bytes(b"an older copy")
    with pytest.raises(ObjectMissing, match=r"folder_driver:Folder: get_backup\('none'\) left no file"):
        own.get_bytes("none")


def test_own_driver_cannot_list(own: Store) -> None:
    for call in (lambda: own.list(""), lambda: own.stat("one"), lambda: own.delete("one")):
        with pytest.raises(CannotList, match="folder_driver:Folder cannot"):
            call()


def test_own_driver_that_raises(own: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").rmdir()
    with pytest.raises(StoreError, match=r"folder_driver:Folder: put_backup\('one'\): FileNotFoundError"):
        own.put_bytes("one", b"x")


def test_a_subclass_of_a_built_in_driver_is_used_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub_driver.py").write_text(
        "from manager.storage.local import LocalStore\n\n\nclass Sub(LocalStore):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = {**local_environment(tmp_path), "BACKUP_DRIVER": "sub_driver:Sub"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(load(environment))
    assert type(store).__name__ == "Sub"
    store.put_bytes("a", b"x")
    assert [each.name for each in store.list("")] == ["a"]


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        ("manta", "BACKUP_DRIVER=manta needs MANTA_URL"),
        ("none_such_module:Class", "cannot be loaded: No module named"),
        ("os:NoneSuch", "cannot be loaded"),
        ("decimal:Decimal", "has no get_backup and no put_backup"),
        ("zipfile:ZipFile", "cannot be set up: TypeError"),
    ],
)
def test_drivers_that_do_not_work_are_wrong_configuration(driver: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        open_store(load({**BASE, "BACKUP_DRIVER": driver}))


def test_libraries_are_imported_only_for_their_stores(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from manager.settings import load
        from manager.storage import open_store
        import manager.snapshot.take, manager.snapshot.catalogue
        open_store(load(os.environ))
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"boto3", "manta", "requests"}))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **local_environment(tmp_path), "PYTHONPATH": str(ROOT / "bin")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
