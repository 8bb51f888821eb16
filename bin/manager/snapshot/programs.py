"""Programs that copy for us: their streams, why one failed in one line, and their end whatever becomes of us."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from manager.errors import SnapshotError
from manager.mysql.initialise import complaint
from manager.settings import Settings

BLOCK = 1 << 20  # bytes read at once
QUIET = 1.0  # seconds
KEPT_LINES = 200
LONGEST_LINE = 300
LAST_WORDS = 5.0  # seconds for what is still on its way when a program has ended
VERSION_TIME = 10.0


def find(settings: Settings, name: str) -> str | None:
    """Return the path of a program in MYSQL_BINDIR or else in PATH, or None."""
    beside = shutil.which(name, path=str(settings.mysql_bindir)) if settings.mysql_bindir else None
    return beside or shutil.which(name)


def version_text(*command: str) -> str:
    """Return what `command --version` prints, on whichever stream; SnapshotError if it cannot be run."""
    path = command[-1]
    try:
        done = subprocess.run(
            [*command, "--version"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=VERSION_TIME,
        )
    except subprocess.TimeoutExpired:
        raise SnapshotError(f"{path} --version did not end within {VERSION_TIME:.0f} s") from None
    except OSError as error:
        raise SnapshotError(f"cannot run {path}: {error.strerror}") from None
    return done.stdout


class Program:
    """A program at work. One of `output`, `feed` and `wait` takes it to its end and looks at its exit status."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._name = name
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, name=f"{name}-stderr", daemon=True)
        self._listener.start()

    @property
    def said(self) -> str:
        """The last KEPT_LINES lines of its standard error."""
        return "\n".join(self._lines)

    def output(self) -> Iterator[bytes]:
        """Yield its standard output as it comes; SnapshotError at the end if it failed.

        Nothing comes for a second: an empty chunk, so that who counts them can tell, and end this by raising.
        """
        stream = self.process.stdout
        assert stream is not None
        while True:
            if not select.select([stream], [], [], QUIET)[0]:
                yield b""
            elif chunk := os.read(stream.fileno(), BLOCK):
                yield chunk
            else:
                break
        while not self._has_ended():
            yield b""
        self._check()

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Write `chunks` to its standard input and close that; SnapshotError if it failed, or did not read all.

        If it ended early, the rest of `chunks` is read first: what they raise, since what was stored is damaged, is
        the better reason.
        """
        stream = self.process.stdin
        assert stream is not None
        source, early = iter(chunks), False
        try:
            for chunk in source:
                stream.write(chunk)
            stream.close()
        except BrokenPipeError:
            early = True
            for _ in source:
                pass
        self.wait()
        if early:  # mbstream's status is 0 when it has refused a file's name (measured)
            raise SnapshotError(f"{self._name} ended before it had read all: {self._complaint()}")

    def wait(self, tick: Callable[[], None] | None = None) -> None:
        """Wait for its end; SnapshotError if it failed. `tick` is called every second; what it raises ends this."""
        while not self._has_ended():
            if tick is not None:
                tick()
        self._check()

    def _has_ended(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(QUIET)
            return True
        return False

    def _check(self) -> None:
        self._listener.join(LAST_WORDS)
        status = self.process.returncode
        if status < 0:
            raise SnapshotError(f"{self._name} was killed by signal {-status}")
        if status > 0:
            raise SnapshotError(f"{self._name} failed ({status}): {self._complaint()}")

    def _complaint(self) -> str:
        return complaint(self.said)[:LONGEST_LINE]

    def _listen(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        with stream:
            while line := stream.readline(BLOCK):
                self._lines.append(line.decode(errors="replace").rstrip())


@contextlib.contextmanager
def running(command: Sequence[str], *, stdin: bool = False, stdout: bool = False) -> Iterator[Program]:
    """Start a program, with a pipe for the streams that are asked for; SnapshotError if it cannot be started.

    At the end of the block it is killed unless it has ended, with all that it started in its process group. It is
    killed as well when the thread that enters this block ends, by a SIGKILL of the process say: that thread has to
    stay for as long as the program is needed.
    """
    try:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *command],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except OSError as error:
        raise SnapshotError(f"cannot run setpriv, of util-linux: {error.strerror}") from None
    program = Program(Path(command[0]).name, process)
    try:
        yield program
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not written yet has nowhere to go
                    stream.close()
