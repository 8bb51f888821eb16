"""Programs that copy: what comes out of them, what goes in, how they fail, and that none outlives its use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import SnapshotDamaged, SnapshotError
from manager.settings import load
from manager.snapshot import programs
from sandbox.processes import states, wait_for

BIN = Path(__file__).resolve().parents[2] / "bin"


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def gone(pid: int) -> bool:
    return wait_for(lambda: states(pid) <= {"Z"}, 10.0)


def test_what_a_program_prints_comes_whole() -> None:
    with programs.running(["head", "-c", "5000000", "/dev/zero"], stdout=True) as program:
        assert sum(map(len, program.output())) == 5_000_000


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("printf all; exit 1", r"^sh failed \(1\): it said nothing$"),
        ("printf all; echo one >&2; echo last >&2; exit 3", r"^sh failed \(3\): last$"),
        (
            "printf all; echo 'Error: no room' >&2; echo last >&2; exit 3",
            r"^sh failed \(3\): Error: no room$",
        ),
        (
            "printf all; echo error: y >&2; echo '1 [ERROR] x' >&2; exit 1",
            r"^sh failed \(1\): 1 \[ERROR\] x$",
        ),
        ("printf all; kill -9 $$", r"^sh was killed by signal 9$"),
        ("printf all; exec >&-; sleep 1.2; exit 1", r"^sh failed \(1\)"),
    ],
)
def test_a_program_that_fails_when_all_of_its_output_has_passed(script: str, message: str) -> None:
    passed: list[bytes] = []
    with (
        programs.running(shell(script), stdout=True) as program,
        pytest.raises(SnapshotError, match=message),
    ):
        passed.extend(program.output())
    assert b"".join(passed) == b"all"


def test_a_program_that_is_not_there() -> None:
    with (
        programs.running(["/nowhere/copier"], stdout=True) as program,
        pytest.raises(SnapshotError, match=r"^copier failed \(127\): .*No such file"),
    ):
        list(program.output())


def test_only_the_end_of_what_it_complains_of_is_kept() -> None:
    with programs.running(shell("seq 1 100000 >&2")) as program:
        program.wait()
    assert program.said.splitlines() == [str(number) for number in range(99801, 100001)]


def test_a_silent_program_does_not_keep_its_reader_waiting() -> None:
    """So a lost lock ends it."""
    with programs.running(["sleep", "60"], stdout=True) as program:
        begun = time.monotonic()
        assert next(program.output()) == b""
        assert time.monotonic() - begun < 10
    assert gone(program.process.pid)


def test_what_ticks_ends_a_program_without_output() -> None:
    def lost() -> None:
        raise SnapshotError("the lock is gone")

    with pytest.raises(SnapshotError, match="the lock is gone"), programs.running(["sleep", "60"]) as program:
        program.wait(lost)
    assert gone(program.process.pid)


def test_a_program_is_fed_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with programs.running(shell(f"cat > {target}"), stdin=True) as program:
        program.feed(bytes([number]) * 100_000 for number in range(40))
    assert target.read_bytes() == b"".join(bytes([number]) * 100_000 for number in range(40))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (1, r"^sh failed \(1\): Error: no room$"),
        (0, r"^sh ended before it had read all: Error: no room$"),
    ],
)
def test_a_program_that_ends_before_it_has_read_all(status: int, message: str) -> None:
    left = iter([bytes(1 << 20)] * 3)
    with (
        programs.running(shell(f"echo Error: no room >&2; exit {status}"), stdin=True) as program,
        pytest.raises(SnapshotError, match=message),
    ):
        program.feed(left)
    assert list(left) == []


def test_damage_is_the_better_reason() -> None:
    def damaged() -> Iterator[bytes]:
        yield bytes(1 << 20)
        yield bytes(1 << 20)
        raise SnapshotDamaged("it is damaged in the store")

    with (
        programs.running(shell("echo Error: what is this >&2; exit 1"), stdin=True) as program,
        pytest.raises(SnapshotDamaged, match="it is damaged in the store"),
    ):
        program.feed(damaged())


def test_a_program_goes_with_the_generator_that_reads_it() -> None:
    def chunks() -> Iterator[bytes]:
        with programs.running(shell("sleep 60 & echo $$ $!; yes"), stdout=True) as program:
            yield from program.output()

    reader = chunks()
    pids = [int(word) for word in next(reader).split()[:2]]
    assert all(map(states, pids))
    reader.close()
    assert all(map(gone, pids))  # what it had started went with it


HOLDER = """
from manager.snapshot import programs
with programs.running(["sh", "-c", "echo $$; exec sleep 60"], stdout=True) as program:
    for chunk in program.output():
        print(chunk.decode(), end="", flush=True)
"""


def test_a_program_goes_with_a_process_that_is_killed() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": str(BIN)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    pid = int(holder.stdout.readline())
    assert states(pid)
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=30)
    assert gone(pid)


def test_programs_are_looked_for_beside_mysqld_and_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, path = tmp_path / "beside", tmp_path / "path"
    for directory, name in ((beside, "one"), (path, "one"), (path, "two")):
        directory.mkdir(exist_ok=True)
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(path))
    settings = load({"MYSQL_BINDIR": str(beside)})
    assert programs.find(settings, "one") == str(beside / "one")
    assert programs.find(settings, "two") == str(path / "two")
    assert programs.find(settings, "three") is None
    assert programs.find(load({}), "one") == str(path / "one")


def test_a_version_on_either_stream(tmp_path: Path) -> None:
    for redirect in ("", " >&2"):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho program version 1.2{redirect}\n")
        program.chmod(0o755)
        assert programs.version_text(str(program)) == "program version 1.2\n"
    with pytest.raises(SnapshotError, match="cannot run /nowhere/program: No such file"):
        programs.version_text("/nowhere/program")
