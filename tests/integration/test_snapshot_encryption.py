"""Encrypted snapshots of a real server: unreadable without a key, and never taken for damaged ones (127.0.103)."""

from __future__ import annotations

import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from manager import nodefile
from manager.comeback import binlog, save
from manager.errors import SnapshotError, StoreError
from manager.node import Node as Hooks
from manager.settings import Settings, load
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.restore import restore
from manager.snapshot.take import take
from manager.snapshot.verdict import entry
from manager.storage import open_store
from sandbox import servers
from sandbox.packages import Packages, program
from tests.commands import shell, wrapper
from tests.documents import replaced, the_block
from tests.integration.clusters import Ran, manage
from tests.integration.limits import no_large_files
from tests.integration.mysql_nodes import Node, nodes

SOURCE, NEW, CONSUL = (f"127.0.103.{number}" for number in range(1, 4))
NAME = "mysql-backup-2026-11-26T12-00-00Z"
MARKER = b"a-word-that-stands-nowhere-else-5b1f"
KEY_FORM = "AGE-SECRET-KEY"


@dataclass(frozen=True)
class Keys:
    """Files with keys, made as the documentation says, and what is in them."""

    directory: Path

    @property
    def first(self) -> Path:
        """With comments, as age-keygen writes it."""
        return self.directory / "snapshot.key"

    @property
    def second(self) -> Path:
        return self.directory / "another.key"

    @property
    def both(self) -> Path:
        """The second before the first: after a rotation."""
        path = self.directory / "rotated"
        path.write_text(self.second.read_text() + self.first.read_text())
        return path

    @property
    def secrets(self) -> list[str]:
        lines = (self.first.read_text() + self.second.read_text()).splitlines()
        return [line for line in lines if line.startswith(KEY_FORM)]


@dataclass(frozen=True)
class Taken:
    """A server, its encrypted snapshot, and Consul, which names that."""

    packages: Packages
    directory: Path
    source: Node
    manifest: Manifest
    consul: servers.Consul

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def environ(self, name: str, **changes: str) -> dict[str, str]:
        """What the hooks of a node at NEW have, whose files are in the directory `name`."""
        place = self.directory / name
        return {
            "PATH": os.environ["PATH"],
            "LOG_LEVEL": "INFO",
            "NODE_NAME": "consul",
            "NODE_ADDRESS": NEW,
            "CONSUL": CONSUL,
            "MYSQL_DATADIR": str(place / "data"),
            "RUN_DIR": str(place / "run"),
            "MYSQL_CONF": str(place / "my.cnf"),
            "MYSQL_CONF_DIR": str(self.source.directory / "conf.d"),
            "MYSQL_BINDIR": str(self.packages.mysql_bindir),
            "MYSQLD_USER": servers.server_user(),
            "SCRATCH_DIR": str(place / "scratch"),
            "BACKUP_DRIVER": "local",
            "STORAGE_DIR": str(self.store),
            **changes,
        }

    def run(self, name: str, *words: str, **changes: str) -> Ran:
        (self.directory / name).mkdir(exist_ok=True)
        return manage(self.packages, self.environ(name, **changes), *words)

    def named(self) -> str:
        """What Consul says of the last snapshot."""
        (key,) = self.consul.get("kv/mysql-last-backup")
        return str(key["Value"])


@pytest.fixture(scope="module")
def programs(module_directory: Path) -> dict[str, str]:
    """The environment of a person who has age and zstd."""
    for package, name in (("age", "age"), ("age", "age-keygen"), ("zstd", "zstd")):
        wrapper(module_directory / "programs", name, program(package, f"usr/bin/{name}"))
    return {"PATH": str(module_directory / "programs")}


@pytest.fixture(scope="module")
def keys(packages: Packages, module_directory: Path, programs: dict[str, str]) -> Keys:
    made = Keys(module_directory / "keys")
    made.directory.mkdir()
    programs["PATH"] += f":{packages.venv_bin}:{os.environ['PATH']}"
    shell(the_block(__file__, "keys").text, env=programs, cwd=made.directory)
    assert len(made.secrets) == 2
    return made


@pytest.fixture(scope="module")
def taken(packages: Packages, module_directory: Path, keys: Keys) -> Iterator[Taken]:
    with (
        nodes(packages, module_directory, SOURCE) as (source,),
        servers.consul_server(packages, module_directory / "consul", address=CONSUL) as consul,
    ):
        source.start()
        source.found()
        with source.client() as conn, conn.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (n INT PRIMARY KEY, word VARCHAR(100))")
            cursor.execute("INSERT INTO my_db.t VALUES (1, %s)", (MARKER.decode(),))
        (module_directory / "store").mkdir()
        manifest = snapshot(source, module_directory / "store", SNAPSHOT_KEY_FILE=str(keys.first))
        text = entry(manifest).to_json().encode()
        url = f"http://{CONSUL}:8500/v1/kv/mysql-last-backup"
        with urllib.request.urlopen(urllib.request.Request(url, text, method="PUT")) as answer:
            assert json.load(answer) is True
        yield Taken(packages, module_directory, source, manifest, consul)


def hooks_of(source: Node, store: Path, **changes: str) -> Settings:
    """The source's own settings, with others for its store."""
    names = ("mysql_datadir", "run_dir", "mysql_conf", "mysql_bindir", "node_name", "node_address")
    own = {name.upper(): str(getattr(source.settings, name)) for name in names}
    scratch = {"SCRATCH_DIR": str(source.directory / "scratch"), "CONSUL": CONSUL}
    return load({**own, **scratch, "BACKUP_DRIVER": "local", "STORAGE_DIR": str(store), **changes})


def snapshot(source: Node, store: Path, **changes: str) -> Manifest:
    settings = hooks_of(source, store, **changes)
    with source.local() as conn:
        return take(settings, conn, open_store(settings), cluster_id="cluster", name=NAME)


def holding(store: Path, word: bytes) -> set[str]:
    """The objects that hold a word, as they are or unpacked."""
    found = set()
    for path in (each for each in store.rglob("*") if each.is_file()):
        content = path.read_bytes()
        try:
            unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        except zstandard.ZstdError:
            unpacked = b""
        if word in content or word in unpacked:
            found.add(path.name)
    return found


def one_line(done: Ran) -> str:
    """The one line with which it failed, at LOG_LEVEL=INFO; what it was about to do may stand before that."""
    errors = [line for line in done.lines if " INFO " not in line]
    assert (done.code, len(errors)) == (1, 1), done.lines
    return errors[0]


def test_nothing_in_the_store_is_readable(taken: Taken, module_directory: Path, keys: Keys) -> None:
    assert (taken.manifest.encryption, taken.manifest.format) == ("age", 1)
    assert taken.manifest.recipient in keys.first.read_text()
    assert {path.name for path in taken.store.iterdir() if path.is_file()} == {NAME, f"{NAME}.manifest.json"}
    for word in (MARKER, b"ibdata1", b"my_db"):
        assert holding(taken.store, word) == set()
    plain = module_directory / "plain"
    plain.mkdir()
    manifest = snapshot(taken.source, plain)
    assert (manifest.encryption, manifest.recipient) == ("", "")
    for word in (MARKER, b"ibdata1", b"my_db"):
        assert holding(plain, word) == {NAME}, "it is not looked for in the right way"


def test_it_is_restored_with_the_old_key_behind_the_new_one(taken: Taken, keys: Keys) -> None:
    """As a process of its own, whose log shows no key, on a node that starts with it."""
    done = taken.run("rotated", "pre_start", SNAPSHOT_KEY_FILE=str(keys.both), LOG_LEVEL="DEBUG")
    assert done.code == 0, done.lines
    assert not any(secret in line for line in done.lines for secret in keys.secrets)
    datadir = str(taken.directory / "rotated" / "data")
    restored = Node(taken.packages, taken.directory / "restored", NEW, MYSQL_DATADIR=datadir)
    restored.start()
    try:
        with restored.local() as conn:
            assert conn.value("SELECT word FROM my_db.t") == MARKER.decode()
    finally:
        restored.kill()


@pytest.mark.parametrize("wrong", ["none", "another"])
@pytest.mark.parametrize(
    "words",
    [("restore", "--datadir", "{place}/data"), ("pre_start",), ("verify",)],
    ids=["restore", "pre_start", "verify"],
)
def test_a_wrong_key_is_one_line_and_condemns_nothing(
    taken: Taken, keys: Keys, words: tuple[str, ...], wrong: str
) -> None:
    before = {path: path.read_bytes() for path in taken.store.iterdir() if path.is_file()}
    named = taken.named()
    name = f"wrong-{words[0]}-{wrong}"
    given = {} if wrong == "none" else {"SNAPSHOT_KEY": keys.second.read_text().strip()}
    place = taken.directory / name
    (place / "run").mkdir(parents=True)
    done = taken.run(name, *(word.format(place=place) for word in words), **given)
    lack = "is not set" if wrong == "none" else "has no key for that"
    recipient = taken.manifest.recipient
    assert one_line(done).endswith(
        f"snapshot {NAME} cannot be restored: it is encrypted for {recipient}, and SNAPSHOT_KEY {lack}"
    )
    assert KEY_FORM not in "".join([*done.lines, done.out])
    assert {path: path.read_bytes() for path in taken.store.iterdir() if path.is_file()} == before
    assert taken.named() == named
    if words[0] != "verify":
        assert [path.name for path in (place / "data").iterdir()] == [nodefile.BUILDING_FILE]
    if words[0] == "pre_start" and wrong == "another":
        done = taken.run(name, *words, SNAPSHOT_KEY_FILE=str(keys.first))
        assert done.code == 0, done.lines
        facts = json.loads((place / "data" / ".autopilot.json").read_text())
        assert (facts["origin"], facts["snapshot"]) == ("restored", NAME)


def test_a_flipped_bit_is_still_damage(taken: Taken, keys: Keys) -> None:
    """In the part of the header that only the key can check, where age itself speaks of a wrong key."""
    store = taken.directory / "flipped"
    shutil.copytree(taken.store, store)
    content = bytearray((store / NAME).read_bytes())
    line = content.index(b"\n", content.index(b"-> X25519 ")) + 1
    content[line] = ord("B") if content[line] == ord("A") else ord("A")
    (store / NAME).write_bytes(content)
    place = taken.directory / "verified"
    (place / "run").mkdir(parents=True)
    changes = {"SNAPSHOT_KEY_FILE": str(keys.first), "STORAGE_DIR": str(store)}
    done = taken.run("verified", "verify", "--snapshot", NAME, **changes)
    assert done.code == 1
    assert "it is damaged in the store or ends early; age says: No matching keys found" in done.out
    verdict = json.loads((store / f"{NAME}.manifest.json").read_text())["verdict"]
    assert "it is damaged in the store" in verdict != GOOD


def test_the_list_says_that_it_is_encrypted(taken: Taken) -> None:
    (row,) = json.loads(taken.run("list", "snapshots", "--json").out)
    assert (row["encryption"], row["recipient"]) == ("age", taken.manifest.recipient)
    assert taken.run("list", "snapshots").out.rstrip().endswith("encrypted")


def test_people_read_them_without_us(
    taken: Taken, keys: Keys, programs: dict[str, str], module_directory: Path
) -> None:
    """With age and zstd of Debian's archive, a snapshot and what was saved of a diverged node."""
    store = module_directory / "saved"
    store.mkdir()
    hooks = Hooks(hooks_of(taken.source, store, SNAPSHOT_KEY_FILE=str(keys.first)))
    datadir = taken.source.settings.mysql_datadir
    extra = taken.source.state().executed
    paths = binlog.holding(binlog.files(datadir), extra)
    held = save.held_by([save.whole_file(path) for path in paths])
    save.save(hooks, "folder", held, [save.whole_file(path) for path in paths], {})
    assert holding(store, MARKER) == set()
    assert holding(store / "folder", b"files") == {"diverged.json"}

    place = module_directory / "person"
    shutil.copytree(store / "folder", place)
    shutil.copy(taken.store / NAME, place)
    shutil.copy(keys.first, place)
    (place / "data").mkdir()
    last = paths[-1]
    block = the_block(__file__, "test_people_read_them_without_us")
    said = shell(replaced(block.text, [("binlog.000007", last.name)]), env=programs, cwd=place)
    assert MARKER.decode() in said
    assert last.read_bytes().startswith((place / last.name).read_bytes())
    assert MARKER in (place / last.name).read_bytes()
    assert any(MARKER in path.read_bytes() for path in (place / "data").rglob("*") if path.is_file())
    assert (place / "data" / "ibdata1").is_file()


@pytest.fixture(scope="module")
def large(taken: Taken) -> Taken:
    """More on the server than any queue holds, whatever packs it."""
    with taken.source.client() as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE my_db.large (content LONGBLOB)")
        cursor.execute("INSERT INTO my_db.large VALUES (%s)", (os.urandom(12 << 20),))
    return taken


@pytest.mark.parametrize("work", ["take", "restore", "save"])
def test_a_full_disk_ends_the_work_and_its_thread(
    large: Taken, keys: Keys, work: str, tmp_path: Path
) -> None:
    key = {"SNAPSHOT_KEY_FILE": str(keys.first)}
    settings = hooks_of(large.source, tmp_path, **key)
    if work == "restore":
        snapshot(large.source, tmp_path, **key)
        (tmp_path / "data").mkdir()

    def attempt() -> None:
        match work:
            case "take":
                snapshot(large.source, tmp_path, **key)
            case "restore":
                restore(settings, open_store(settings), NAME, tmp_path / "data")
            case _:
                pieces = [save.whole_file(path) for path in binlog.files(settings.mysql_datadir)]
                save.save(Hooks(settings), "folder", save.held_by(pieces), pieces, {})

    with no_large_files(), pytest.raises((StoreError, SnapshotError)) as caught:
        attempt()
    assert "File too large" in str(caught.value)
    # Not even while somebody holds the exception, and with it all that was open.
    assert "pushed" not in {thread.name for thread in threading.enumerate()}
