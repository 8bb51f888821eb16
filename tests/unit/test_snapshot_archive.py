from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from manager.errors import SnapshotDamaged, SnapshotError
from manager.snapshot.archive import compress, content_size, decompress, pack, tree_size, unpack
from manager.snapshot.pipeline import Digest, limited
from manager.snapshot.progress import Pace, size_text


def archive(directory: Path) -> bytes:
    return b"".join(compress(pack(directory)))


def tarred(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(content))
    return zstandard.ZstdCompressor().compress(buffer.getvalue())


def tree(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.fixture
def original(tmp_path: Path) -> Path:
    directory = tmp_path / "original"
    (directory / "#innodb_redo" / "deeper").mkdir(parents=True)
    (directory / "empty").mkdir()
    for name, size in {"a": 0, "b": 1, "c": 511, "d": 512, "e": 513, "#innodb_redo/f": 100_001}.items():
        (directory / name).write_bytes(os.urandom(size))
    (directory / ("long" * 60)).write_bytes(b"x")
    (directory / "o@002dd#p#p0.ibd").write_bytes(b"y")
    return directory


def test_what_is_packed_is_unpacked(original: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / ".autopilot-building").touch()
    size = unpack(decompress([archive(original)]), target)
    (target / ".autopilot-building").unlink()
    assert tree(target) == tree(original)
    assert size == content_size(original)
    assert stat.S_IMODE((target / "a").stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE((target / "empty").stat().st_mode) & 0o027 == 0


def test_the_stream_is_an_ordinary_archive(original: Path, tmp_path: Path) -> None:
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(archive(original))
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = tar.getnames()
    assert sorted(names) == sorted(tree(original))


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=20))
def test_any_cutting_of_the_stream_gives_the_same(original: Path, cuts: list[int]) -> None:
    data = archive(original)

    def pieces() -> Iterator[bytes]:
        start, number = 0, 0
        while start < len(data):
            end = start + cuts[number % len(cuts)]
            yield data[start:end]
            start, number = end, number + 1

    target = original.parent / "cut"
    target.mkdir()
    unpack(decompress(pieces()), target)
    assert tree(target) == tree(original)
    for path in sorted(target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    target.rmdir()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ".", ".autopilot.json", "./x/../../y"])
def test_names_outside_the_directory_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(SnapshotError, match="no name for a file of the database"):
        unpack(decompress([tarred(tarfile.TarInfo(name))]), tmp_path / "target")
    assert [path.name for path in tmp_path.rglob("*")] == ["target"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(SnapshotError, match="neither a file nor a directory"):
        unpack(decompress([tarred(member)]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ibdata1").write_bytes(b"precious")
    with pytest.raises(SnapshotError, match="File exists"):
        unpack(decompress([tarred(tarfile.TarInfo("ibdata1"))]), tmp_path)
    assert (tmp_path / "ibdata1").read_bytes() == b"precious"


def test_a_stream_that_is_cut_or_changed_is_damaged(original: Path, tmp_path: Path) -> None:
    data = archive(original)
    for number, part in enumerate(
        (b"", data[:100], data[: len(data) // 2], data[:-2000], b"no archive at all")
    ):
        target = tmp_path / f"target-{number}"
        target.mkdir()
        with pytest.raises(SnapshotError, match="damaged or ends early"):
            unpack(decompress([part]), target)


def test_a_size_that_cannot_be_is_damage(tmp_path: Path) -> None:
    member = tarfile.TarInfo("ibdata1")
    member.size = -tarfile.BLOCKSIZE
    headers = [tarfile.TarInfo("empty").tobuf(), member.tobuf(tarfile.GNU_FORMAT), bytes(5000)]
    with pytest.raises(SnapshotError, match="damaged or ends early"):
        unpack(headers, tmp_path)


def test_what_is_compressed_well_comes_in_small_pieces() -> None:
    packed = b"".join(compress(bytes(1 << 20) for _ in range(100)))
    assert len(packed) < 1 << 16
    sizes = [len(chunk) for chunk in decompress([packed])]
    assert (sum(sizes), max(sizes)) == (100 << 20, 1 << 20)


def test_a_stream_is_read_to_its_end(original: Path, tmp_path: Path) -> None:
    target, digest = tmp_path / "target", Digest()
    target.mkdir()
    data, more = archive(original), bytes(5 << 20)
    with contextlib.suppress(SnapshotDamaged):  # what goes on behind it may be told at once, or by the digest
        unpack(decompress(digest.follow([data, more])), target)
    assert digest.size == len(data) + len(more)


def test_a_failing_source_passes_through(original: Path, tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield archive(original)[:1000]
        raise RuntimeError("the store is away")

    with pytest.raises(RuntimeError, match="the store is away"):
        unpack(decompress(source()), tmp_path)


def test_links_are_not_packed(original: Path) -> None:
    (original / "link").symlink_to("/etc/passwd")
    with pytest.raises(SnapshotError, match="link is neither a file nor a directory"):
        archive(original)


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_a_file_that_changes_its_size_meanwhile(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2_000_000))
    stream = pack(tmp_path)
    next(stream)
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(SnapshotError, match="file changed while it was read"):
        list(stream)


def test_sizes(original: Path) -> None:
    assert content_size(original) == sum(len(content) for content in tree(original).values() if content)
    assert tree_size(original) >= content_size(original)
    assert tree_size(original / "none") == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12 kB"),
        (3_400_000_000, "3.4 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert size_text(count) == text


def test_progress_is_told_every_few_seconds() -> None:
    now = [100.0]
    lines: list[str] = []
    pace = Pace(lines.append, "storing", 4_000_000, interval=5.0, clock=lambda: now[0])
    assert list(pace.count([b"x" * 1_000_000])) == [b"x" * 1_000_000]
    assert lines == []
    now[0] += 5.0
    pace.moved(1_000_000)
    pace.moved(1_000_000)
    now[0] += 1.0
    pace.finish()
    assert lines == [
        "storing: 2.0 MB of about 4.0 MB, 400 kB/s, about 5 s left",
        "storing: 3.0 MB, 500 kB/s, done in 6.0 s",
    ]


def test_a_rate_is_kept_to() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    chunks = [bytes(500)] * 20
    assert list(limited(iter(chunks), 1000, clock=lambda: now[0], sleep=sleep)) == chunks
    assert now[0] == pytest.approx(10.0)


def test_a_rate_lets_a_slow_source_catch_up_for_a_second_only() -> None:
    now = [0.0]

    def slow_then_fast() -> Iterator[bytes]:
        yield bytes(1000)
        now[0] += 100.0
        for _ in range(5):
            yield bytes(1000)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    list(limited(slow_then_fast(), 1000, clock=lambda: now[0], sleep=sleep))
    assert now[0] == pytest.approx(1.0 + 100.0 + 4.0)


def test_without_a_rate_nothing_waits() -> None:
    assert list(limited(iter([b"a", b"b"]), None, sleep=lambda seconds: pytest.fail("it waited"))) == [
        b"a",
        b"b",
    ]
