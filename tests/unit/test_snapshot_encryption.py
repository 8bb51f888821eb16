"""SNAPSHOT_KEY: which keys are taken, and what becomes of a stream that is damaged, cut off, or another's."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from manager.age_key import is_secret_key
from manager.errors import ConfigError, LockLost, SnapshotDamaged, SnapshotError, StoreError
from manager.settings import Settings, load
from manager.snapshot.encryption import Keys
from manager.snapshot.manifest import Manifest
from manager.snapshot.pipeline import Digest, incoming, outgoing
from manager.snapshot.progress import Pace
from manager.storage import Store, open_store
from tests.unit.test_snapshot_manifest import MANIFEST

CHUNK = 65536
BORDER = CHUNK + 16
"""What age makes of a chunk."""


def new_key() -> str:
    return str(pyrage.x25519.Identity.generate())


def public(key: str) -> str:
    return str(pyrage.x25519.Identity.from_str(key).to_public())


KEY, OTHER = new_key(), new_key()


def settings(**environ: str) -> Settings:
    return load({"NODE_NAME": "node-1", "NODE_ADDRESS": "127.0.0.1", **environ})


def keys(*given: str) -> Keys:
    return Keys(settings(SNAPSHOT_KEY=" ".join(given)))


def encrypted(data: bytes, key: str = KEY) -> bytes:
    return b"".join(keys(key).encrypt([data]))


def decrypted(data: bytes, *given: str) -> bytes:
    return b"".join(keys(*given or (KEY,)).decrypt(iter([data])))


def text(length: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(length))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# --- The setting --------------------------------------------------------------------------------


def test_a_key_is_told_from_one_with_a_slip() -> None:
    assert all(is_secret_key(new_key()) for _ in range(20))
    for at in range(len(KEY)):
        for letter in "QP1-":
            if KEY[at] != letter:
                assert not is_secret_key(KEY[:at] + letter + KEY[at + 1 :])
    swapped = KEY[:-2] + KEY[-1] + KEY[-2]
    assert not is_secret_key(swapped) or swapped == KEY
    for other in ("", KEY[:-1], f"{KEY}Q", KEY.lower(), f" {KEY}", public(KEY)):
        assert not is_secret_key(other)


def test_keys_as_age_keygen_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# created: 2026-11-26T12:00:00Z\n# public key: x\n{KEY}\n\n  # the old one\n{OTHER}\n")
    found = settings(SNAPSHOT_KEY_FILE=str(file))
    assert [key.value for key in found.snapshot_key or ()] == [KEY, OTHER]
    assert settings(SNAPSHOT_KEY=f" {KEY} {OTHER}\n").snapshot_key == found.snapshot_key
    assert settings().snapshot_key is None


def test_each_key_by_itself_is_known_to_the_log() -> None:
    found = settings(SNAPSHOT_KEY=f"{KEY} {OTHER}")
    assert found.secrets == (KEY, OTHER)
    assert "SECRET-KEY" not in repr(found)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (" \n", "holds no key: it takes secret keys of age (AGE-SECRET-KEY-1...)"),
        (f"# {KEY}", "holds no key: it takes secret keys of age (AGE-SECRET-KEY-1...)"),
        ("hunter2", "number 1 of 1 is no secret key of age (AGE-SECRET-KEY-1...)"),
        (f"{KEY} {OTHER[:-1]}", "number 2 of 2 is no secret key of age (AGE-SECRET-KEY-1...)"),
        (f"{KEY},{OTHER}", "number 1 of 1 is no secret key of age (AGE-SECRET-KEY-1...)"),
        (f"{KEY} # mine", "number 2 of 3 is no secret key of age (AGE-SECRET-KEY-1...)"),
        (public(KEY), "number 1 of 1 is no secret key of age (AGE-SECRET-KEY-1...)"),
    ],
    ids=["empty", "comment", "other", "cut", "comma", "remark", "public"],
)
def test_what_is_no_key_is_refused_without_being_shown(given: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(SNAPSHOT_KEY=given)
    assert str(caught.value) == f"SNAPSHOT_KEY: {line}"


# --- A stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, (5 << 20) + 3])
def test_what_is_encrypted_comes_back(length: int) -> None:
    data = text(length)
    stored = encrypted(data)
    assert length <= len(stored) <= keys(KEY).at_most(length)
    assert data[:100] not in stored or length == 0 or length == 1
    pieces = (stored[at : at + 1000] for at in range(0, len(stored), 1000))
    assert b"".join(keys(KEY).decrypt(pieces)) == data


def test_without_a_key_nothing_changes() -> None:
    none = Keys(settings())
    assert list(none.encrypt([b"a", b"b"])) == [b"a", b"b"]
    assert (none.encryption, none.recipient, none.suffix, none.at_most(3)) == ("", "", "", 3)


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    before, after = keys(OTHER), keys(KEY, OTHER)
    assert (before.recipient, after.recipient) == (public(OTHER), public(KEY))
    old, new = (b"".join(by.encrypt([b"content"])) for by in (before, after))
    for stored, by in ((old, before), (new, after)):
        after.check(by.encryption, by.recipient)
        assert decrypted(stored, KEY, OTHER) == b"content"
    assert (decrypted(old, OTHER), decrypted(new, KEY)) == (b"content", b"content")
    after.check("", "")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((), f"it is encrypted for {public(KEY)}, and SNAPSHOT_KEY is not set"),
        ((OTHER,), f"it is encrypted for {public(KEY)}, and SNAPSHOT_KEY has no key for that"),
    ],
    ids=["none", "another"],
)
def test_a_key_that_is_missing_is_no_damage(given: tuple[str, ...], line: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        keys(*given).check("age", public(KEY))
    assert not isinstance(caught.value, SnapshotDamaged)
    assert str(caught.value) == line


def test_an_unknown_encryption_is_no_damage() -> None:
    with pytest.raises(SnapshotError, match="it is encrypted by 'later', unknown to this version") as caught:
        keys(KEY).check("later", "")
    assert not isinstance(caught.value, SnapshotDamaged)


def damaged(stored: bytes) -> bytes:
    """What comes out of a damaged stream before that is noticed."""
    found: list[bytes] = []
    with pytest.raises(SnapshotDamaged) as caught:
        found.extend(keys(KEY).decrypt(iter([stored])))
    assert str(caught.value).startswith("it is damaged in the store or ends early; age says: ")
    assert "\n" not in str(caught.value)
    return b"".join(found)


def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    data = text(2 * CHUNK + 100)
    stored = encrypted(data)
    header = len(stored) - len(data) - 3 * 16
    for at in (*range(header + 20), header + BORDER - 1, header + BORDER, len(stored) - 1):
        assert data.startswith(damaged(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]))


@pytest.mark.parametrize("length", [0, 100, CHUNK, 3 * CHUNK])
def test_a_stream_that_ends_early_or_goes_on_is_noticed(length: int) -> None:
    """Above all where one of age's chunks ends: what is left is a stream of whole chunks then."""
    data = text(length)
    stored = encrypted(data)
    chunks = max(1, length // CHUNK)
    header = len(stored) - length - 16 * chunks
    borders = [header + number * BORDER for number in range(chunks)]
    for end in {0, 10, header - 17, header - 16, len(stored) - 1} | {
        border + more for border in borders for more in (-1, 0, 1, 16, 17) if border + more < len(stored)
    }:
        assert data.startswith(damaged(stored[:end]))
    assert data.startswith(damaged(stored + b"x"))
    assert data.startswith(damaged(stored + encrypted(b"another")))


# --- Errors of both sides -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [StoreError("away"), LockLost("lost"), OSError("read"), SnapshotError("program")]
)
@pytest.mark.parametrize("first", [b"", text(3 << 20)])
def test_what_the_source_raises_passes_as_it_is(error: Exception, first: bytes) -> None:
    def source(chunk: bytes) -> Iterator[bytes]:
        yield chunk
        raise error

    for stage in (keys(KEY).encrypt(source(first)), keys(KEY).decrypt(source(encrypted(first)[:-1]))):
        with pytest.raises(type(error)) as caught:
            list(stage)
        assert caught.value is error


@pytest.mark.parametrize("way", ["encrypt", "decrypt"])
def test_an_early_end_closes_the_source_and_leaves_no_thread(way: str) -> None:
    closed = threading.Event()
    read: list[int] = []
    stored = encrypted(bytes(200 << 20))

    def source() -> Iterator[bytes]:
        try:
            for at in range(0, len(stored), 1 << 20):
                read.append(at)
                yield stored[at : at + (1 << 20)]
        finally:
            closed.set()

    stage = getattr(keys(KEY), way)(source())
    next(stage)
    stage.close()
    assert closed.wait(10.0)
    assert len(read) < 20, "it did not stop"


# --- Through the store --------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(settings(BACKUP_DRIVER="local", STORAGE_DIR=str(tmp_path)))


def quiet(stage: str) -> Pace:
    return Pace(lambda line: None, stage)


def put(store: Store, chunks: Iterable[bytes], by: Keys) -> Manifest:
    digest = Digest()
    stream = outgoing(iter(chunks), quiet("storing"), digest, rate=None, keys=by)
    store.put_stream(MANIFEST.id, stream)
    return replace(
        MANIFEST,
        size=digest.size,
        sha256=digest.sha256,
        encryption=by.encryption,
        recipient=by.recipient,
    )


def get(store: Store, manifest: Manifest, by: Keys) -> bytes:
    return b"".join(incoming(store, manifest, quiet("restoring"), by))


def test_the_digest_is_of_what_is_stored(store: Store) -> None:
    data = text(300_000)
    manifest = put(store, [data], keys(KEY))
    assert manifest.size == store.stat(MANIFEST.id).size
    assert get(store, manifest, keys(OTHER, KEY)) == data
    # An object of before there were keys.
    assert get(store, put(store, [data], Keys(settings())), keys(KEY)) == data


def test_a_manifest_that_means_another_object_is_noticed(store: Store) -> None:
    manifest = put(store, [text(300_000)], keys(KEY))
    with pytest.raises(SnapshotDamaged, match="its manifest says"):
        get(store, replace(manifest, sha256="0" * 64), keys(KEY))
    with pytest.raises(SnapshotDamaged, match="damaged or ends early"):
        get(store, replace(manifest, encryption=""), keys(KEY))
    store.delete(MANIFEST.id)
    with pytest.raises(SnapshotDamaged, match="its object is gone"):
        get(store, manifest, keys(KEY))


def test_damage_within_leaves_no_thread(store: Store) -> None:
    """What was stored for somebody who has the public key, and is none of ours."""
    stored = b"".join(keys(KEY).encrypt([bytes(20 << 20)]))
    store.put_bytes(MANIFEST.id, stored)
    manifest = replace(MANIFEST, encryption="age", recipient=public(KEY))
    with pytest.raises(SnapshotDamaged, match="the archive is damaged") as caught:
        get(store, manifest, keys(KEY))
    # Not even while somebody holds the exception, and with it all that was open.
    assert caught.value.__traceback__ is not None
    assert "pushed" not in {thread.name for thread in threading.enumerate()}
