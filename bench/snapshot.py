"""`make bench-snapshot`: a snapshot of GIB of data stored and restored, beside bare pipelines and the stores' clients.

For each store, in one run and by turns, seconds for the same data of a real server, of which an eighth is random and
the rest words:

* put: ours (the server's copy of itself, packed, compressed, stored, checked, with its manifest), a process of its
  own from start to end; the same copy and `tar | zstd -3 | cat > /dev/null`; the store's own client with the object
  that this makes
* get: ours (fetched, checked, unpacked, synced), likewise; `cat OBJECT | zstd -d | tar -x` and then the files synced;
  the store's own client, into a file

A ratio is the time of the slower of the other two by ours, the median of the rounds; a peak is the highest of all
rounds, of our process alone, in MB (10^6 bytes). What is read has just been written and is in the page cache for all
alike, memory permitting; before each measurement all that is dirty is written (sync), each side gets a store that is
new and empty, and each round begins with another side. A store's server is another machine's business, so it gets half
of the cores for itself, and all three sides, mysqld's copy included, get the other half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from bench.failover import RESULTS
from bench.snapshot_stores import STORES, Target
from sandbox import servers
from sandbox.node import SandboxError
from sandbox.packages import ROOT, Packages, PackagesError, ensure, install_programs
from sandbox.processes import ServerFailed

DIRECTORY = Path(f"/tmp/autopilot-bench-{os.getuid()}-snapshot")
SERVER, STORE, NOBODY = "127.0.97.1", "127.0.97.2", "127.0.97.9"
SIDES = ("ours", "bare", "client")
RATIO, RSS_MB = 0.8, 128.0
MIB = 1 << 20
ROW = MIB // 4
WORDS = 3000
FRESH = 256 * MIB  # beyond this the rows come again, far out of the reach of zstd -3, which looks 2 MiB back
FILLING = ("--innodb-redo-log-capacity=2G", "--innodb-doublewrite=OFF", "--innodb-flush-log-at-trx-commit=0")
OPTIONS = (
    "--server-id=1",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--plugin-load-add=auth_socket.so",
    "--plugin-load-add=mysql_clone.so",
    "--innodb-buffer-pool-size=256M",
)
BARE_PUT = 'tar -c -C "$1" . | zstd -q -3 | cat > /dev/null'
BARE_GET = 'cat "$1" | zstd -q -d | tar -x -C "$2" && find "$2" -type f -exec sync {} +'
OBJECT = 'tar -c -C "$1" . | zstd -q -3 > "$2"'


@dataclass(frozen=True)
class Cores:
    """Who runs where: both on all of them if there is only one."""

    sides: frozenset[int]
    stores: frozenset[int]

    @staticmethod
    def shared_out(cores: Collection[int]) -> Cores:
        """Give each half of them."""
        first = sorted(cores)[: len(cores) // 2] or cores
        return Cores(frozenset(first), frozenset(set(cores) - set(first) or cores))


@contextlib.contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """Within the block what this thread does, and starts, happens on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Measured:
    """Seconds of one round by who did it; the peak memory of our process in MB (10^6 bytes)."""

    seconds: Mapping[str, float]
    peak_rss_mb: float

    @property
    def ratio(self) -> float:
        """How fast ours is beside the slower of the other two."""
        return max(self.seconds["bare"], self.seconds["client"]) / self.seconds["ours"]


# --- The data -------------------------------------------------------------------------------------


def rows(incompressible: float, seed: int = 1) -> Iterator[bytes]:
    """Yield rows without end: this part of each cannot be compressed, the rest is words, some of them frequent."""
    chance = random.Random(seed)
    words = [bytes(chance.choices(b"etaoinshrdlucmfwypvbgk", k=chance.randint(2, 10))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    text = b" ".join(chance.choices(words, weights, k=3 * MIB))
    while True:
        start = chance.randrange(len(text) - ROW)
        size = int(ROW * incompressible)
        yield os.urandom(size) + text[start : start + ROW - size]


def fill(connection: pymysql.Connection[Any], size: int, incompressible: float) -> None:
    """Fill two tables with `size` bytes, and make the account that the hooks log in with."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE USER autopilot@localhost IDENTIFIED WITH auth_socket AS '{user}'")
        cursor.execute("GRANT ALL ON *.* TO autopilot@localhost WITH GRANT OPTION")
        cursor.execute("CREATE DATABASE app")
        cursor.execute("CREATE TABLE app.fresh (id INT AUTO_INCREMENT PRIMARY KEY, content LONGBLOB)")
        cursor.execute("CREATE TABLE app.again LIKE app.fresh")
        cursor.execute("SET sql_log_bin = 0")
        left, source = max(size // ROW, 1), rows(incompressible)
        fresh = min(left, FRESH // ROW)
        for _ in range(fresh):
            cursor.execute("INSERT INTO app.fresh (content) VALUES (_binary %s)", (next(source),))
        while left := left - fresh:
            fresh = min(fresh, left)
            cursor.execute("INSERT INTO app.again (content) SELECT content FROM app.fresh LIMIT %s", (fresh,))


def connect(mysql: servers.Mysql) -> pymysql.Connection[Any]:
    """Log in as root; pymysql's errors as they are."""
    return pymysql.connect(unix_socket=str(mysql.socket), user="root", autocommit=True)


# --- The three sides ------------------------------------------------------------------------------


class Bench:
    """The server with its data, and one store at a time, in `directory`."""

    def __init__(self, packages: Packages, directory: Path, mysql: servers.Mysql, cores: Cores) -> None:
        self._packages = packages
        self._cores = cores
        self._directory = directory
        self._mysql = mysql
        self._object = directory / "object.tar.zst"

    def prepare(self) -> None:
        """Make the object that clients store and the bare pipeline restores."""
        with self._copy() as copy:
            shell(OBJECT, copy, self._object)

    def round(self, store: str, first: int) -> dict[str, Measured]:
        """Put and get once with each side, the side number `first` before the others."""
        sides = {"ours": self._ours, "bare": self._bare, "client": self._client}
        turns = [SIDES[(first + number) % len(SIDES)] for number in range(len(SIDES))]
        seconds: dict[str, dict[str, float]] = {"put": {}, "get": {}}
        peaks: dict[str, float] = {}
        for side in turns:
            with self._running(store) as target:
                for verb in ("put", "get"):
                    seconds[verb][side], peak = sides[side](verb, target)
                    if peak is not None:
                        peaks[verb] = peak
        return {verb: Measured(seconds[verb], peaks[verb]) for verb in seconds}

    @contextlib.contextmanager
    def _running(self, store: str) -> Iterator[Target]:
        """A store that is new and empty: what one side has stored must take no room from the next."""
        directory = self._directory / store
        start = STORES[store](self._packages, directory, STORE, self._object, self._directory / "fetched")
        try:
            with contextlib.ExitStack() as stack:
                with on(self._cores.stores):
                    target = stack.enter_context(start)
                yield target
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _ours(self, verb: str, target: Target) -> tuple[float, float]:
        environ = {
            **os.environ,
            **target.settings,
            "PYTHONPATH": str(ROOT / "bin"),
            "SCRATCH_DIR": str(self._directory / "scratch"),
            "MYSQL_DATADIR": str(self._mysql.datadir),
            "RUN_DIR": str(self._mysql.socket.parent),
            "MYSQL_BINDIR": str(self._packages.mysql_bindir),
            "MYSQLD_USER": servers.server_user(),
            "NODE_NAME": "node-1",
            "NODE_ADDRESS": SERVER,
            "CONSUL": NOBODY,
            "LOG_LEVEL": "WARNING",
        }
        command = [str(self._packages.python), "-m", "bench.snapshot_hook", verb]
        with self._empty("restored") as restored:
            if verb == "get":
                command.append(str(restored))
            took, output = timed(lambda: run(command, environ))
        return took, float(output.splitlines()[-1])

    def _bare(self, verb: str, target: Target) -> tuple[float, None]:
        if verb == "get":
            with self._empty("restored") as restored:
                return timed(lambda: shell(BARE_GET, self._object, restored))[0], None

        def put() -> None:
            with self._copy() as copy:
                shell(BARE_PUT, copy)

        return timed(put)[0], None

    def _client(self, verb: str, target: Target) -> tuple[float, None]:
        command = target.put if verb == "put" else target.get
        try:
            return timed(lambda: run(command, {**os.environ, **target.environ}))[0], None
        finally:
            (self._directory / "fetched").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        """The server's copy of itself."""
        with self._empty("scratch") as scratch:
            if os.getuid() == 0:
                shutil.chown(scratch, servers.server_user())
            with connect(self._mysql) as connection, connection.cursor() as cursor:
                cursor.execute("CLONE LOCAL DATA DIRECTORY = %s", (str(scratch / "copy"),))
            yield scratch / "copy"

    @contextlib.contextmanager
    def _empty(self, name: str) -> Iterator[Path]:
        path = self._directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds `work` takes, once nothing else waits for the disk, and its result."""
    os.sync()
    begin = time.monotonic()
    result = work()
    return time.monotonic() - begin, result


def shell(script: str, *arguments: Path) -> None:
    """Run a pipeline; SandboxError if a part of it fails."""
    run(["bash", "-c", f"set -eo pipefail; {script}", "bash", *map(str, arguments)], os.environ)


def run(command: list[str], environ: Mapping[str, str]) -> str:
    """Return what a command prints; SandboxError with its last line if it fails."""
    done = subprocess.run(command, env=environ, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SandboxError(f"{command[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


# --- Results --------------------------------------------------------------------------------------


def summarise(found: Mapping[str, list[Mapping[str, Measured]]]) -> dict[str, Any]:
    """Return, for each store, the highest peaks and the medians of the rounds' ratios."""
    results: dict[str, Any] = {}
    for store, rounds in found.items():
        results[store] = {
            f"{verb}_peak_rss_mb": round(max(one[verb].peak_rss_mb for one in rounds), 1)
            for verb in ("put", "get")
        } | {
            f"{verb}_ratio": round(statistics.median(one[verb].ratio for one in rounds), 2)
            for verb in ("put", "get")
        }
    return results


def median_seconds(rounds: list[Mapping[str, Measured]]) -> dict[str, dict[str, float]]:
    """Return the median seconds of each side for put and get."""
    return {
        verb: {side: round(statistics.median(one[verb].seconds[side] for one in rounds), 2) for side in SIDES}
        for verb in ("put", "get")
    }


def beyond(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return which figures are not within the limits."""
    return [
        f"{store}: {name} is {value}"
        for store, figures in results.items()
        for name, value in figures.items()
        if (value > RSS_MB if name.endswith("_mb") else value < RATIO)
    ]


def measure(
    packages: Packages, directory: Path, gib: float, incompressible: float, runs: int, stores: list[str]
) -> dict[str, list[dict[str, Measured]]]:
    """Return what each store's rounds took."""
    found: dict[str, list[dict[str, Measured]]] = {store: [] for store in stores}
    cores = Cores.shared_out(os.sched_getaffinity(0))
    with servers.mysqld(packages, directory, address=SERVER, options=(*OPTIONS, *FILLING)) as mysql:
        print(f"filling {gib:g} GiB", flush=True)
        with connect(mysql) as connection:
            fill(connection, int(gib * 1024 * MIB), incompressible)
    with on(cores.sides), servers.mysqld(packages, directory, address=SERVER, options=OPTIONS) as mysql:
        bench = Bench(packages, directory, mysql, cores)
        bench.prepare()
        for number in range(runs):
            for store in stores:
                found[store].append(bench.round(store, number))
                for verb, one in found[store][-1].items():
                    took = ", ".join(f"{side} {one.seconds[side]:.2f} s" for side in SIDES)
                    print(f"{number + 1} {store} {verb}: {took}; {one.ratio:.2f}, {one.peak_rss_mb:.1f} MB")
                sys.stdout.flush()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write bench/results/snapshot.json; return 0, or 1 if that was not possible or a limit is passed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.snapshot", description="See the head of this file."
    )
    parser.add_argument("--gib", default="", help="size of the data (default 4)")
    parser.add_argument(
        "--incompressible", type=float, default=0.125, help="part of the data (default an eighth)"
    )
    parser.add_argument("--runs", default="", help="rounds (default 3)")
    parser.add_argument("--stores", default=",".join(STORES), help="which (default: all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    gib, runs, stores = float(given.gib or 4), int(given.runs or 3), given.stores.split(",")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(mode=0o755)
    try:
        packages = ensure()
        install_programs({"zstd": "zstd", "curl": "curl"})
        found = measure(packages, DIRECTORY, gib, given.incompressible, runs, stores)
    except (SandboxError, ServerFailed, PackagesError, pymysql.MySQLError) as error:
        print(f"bench-snapshot: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    results = summarise(found)
    about = {
        "gib": gib,
        "incompressible": given.incompressible,
        "runs": runs,
        "compared": " ".join(str(__doc__).split("\n\n", 1)[1].split()),
        "median_s": {store: median_seconds(rounds) for store, rounds in found.items()},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "snapshot.json").write_text(json.dumps({**results, "about": about}, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    for line in (far := beyond(results)):
        print(f"bench-snapshot: {line}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
