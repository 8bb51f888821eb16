"""One run: start a cluster, let clients write, do the faults, heal, wait, judge, report."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from faults import checker
from faults.actions import fault
from faults.checker import Violation
from faults.client import Client, checksums, read
from faults.history import History, RecordWatch
from faults.schedule import Planned, schedule
from faults.world import World
from sandbox.cluster import Cluster
from sandbox.node import SandboxError
from sandbox.processes import wait_for

FIRST = 240.0
CONVERGE = 150.0
AGREE = 60.0
# With AUTO_REBUILD=no: how long a node that says that it has diverged is left alone.
SAY = 15.0
NODES = 3
CLIENTS = 6
APPENDING = 2
PAUSE = 0.02
LEASE = 10.0
# async: how much later than LEASE an old primary may still acknowledge on a busy host.
LEASE_SLACK = 5.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for.

    `keep` keeps history and logs in any case, and after a violation the cluster. `until_found` ends the run at
    the first violation.
    """

    seed: int
    minutes: float
    kinds: Mapping[str, float | None]
    durability: str
    overlap: bool
    directory: Path
    keep: bool = False
    until_found: bool = False


@dataclass
class Done:
    """What became of one group of faults; seconds since the beginning of the run."""

    planned: tuple[Planned, ...]
    at: float
    healed: float
    converged: float | None = None
    write_gap_s: float = 0.0
    epoch: int = 0


@dataclass
class Run:
    """A run in progress."""

    options: Options
    cluster: Cluster
    begin: float = field(default_factory=time.monotonic)
    history: History = field(default_factory=History)
    violations: list[Violation] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    replaced: int = 0
    lost: set[tuple[int, int]] = field(default_factory=set)
    promotions: int = 0

    def __post_init__(self) -> None:
        self.world = World(self.cluster, self.say)
        self.clients = [
            Client(self.cluster, self.history, number, append=number >= CLIENTS - APPENDING, pause=PAUSE)
            for number in range(CLIENTS)
        ]
        self.options.directory.mkdir(parents=True, exist_ok=True)
        self._log = open(self.options.directory / "run.log", "w", buffering=1)  # noqa: SIM115

    def say(self, text: str) -> None:
        """One line for the terminal and the log, with the seconds since the beginning."""
        line = f"[{time.monotonic() - self.begin:7.1f} s] {text}"
        print(line, flush=True)
        self._log.write(line + "\n")

    def blame(self, kind: str, text: str) -> None:
        """Keep a violation, once."""
        number = self.done[-1].planned[-1].number if self.done else 0
        violation = Violation(kind, number, text)
        if all((one.kind, one.text) != (kind, text) for one in self.violations):
            self.violations.append(violation)
            self.say(f"VIOLATION {kind}: {text}")

    # --- The parts ------------------------------------------------------------------------------

    def go(self) -> None:
        """Everything from the first node to the last check; SandboxError if there was nothing to judge."""
        self.say(
            f"seed {self.options.seed}, {self.options.durability}, faults: {' '.join(self.options.kinds)}"
        )
        self.cluster.up(NODES)
        if not wait_for(lambda: not self.world.unsettled(), FIRST, 0.5):
            raise SandboxError(f"the cluster did not start: {self.world.unsettled()}")
        settled = True
        with self._clients():
            end = time.monotonic() + 60.0 * self.options.minutes
            groups = schedule(self.options.seed, self.options.kinds, at_once=2 if self.options.overlap else 1)
            for group in groups:
                if time.monotonic() + sum(one.seconds for one in group) > end:
                    break
                self._do(group)
                settled = self._settle()
                self._judge()
                if self.options.until_found:
                    self._overlaps(checker.owners(self.history.records)[0])
                if not settled or (self.violations and self.options.until_found):
                    break
        if settled:
            self._agree()
        primaries, twice = checker.owners(self.history.records)
        for line in twice:
            self.blame("two primaries", line)
        self.promotions, unsafe = checker.promotions(self.history.records)
        for line in unsafe:
            self.blame("promotion that should have been refused", line)
        self._overlaps(primaries)

    @contextlib.contextmanager
    def _clients(self) -> Iterator[None]:
        watch = RecordWatch(
            lambda: self.cluster.catalogue.key(f"{self.cluster.service_name}-cluster"),
            time.monotonic,
            self.history.records,
        )
        if not wait_for(self._tables_made, 30.0, 0.5):
            raise SandboxError("the clients' tables could not be made")
        watch.start()
        wait_for(lambda: bool(self.history.records), 10.0)
        for client in self.clients:
            client.start()
        try:
            yield
        finally:
            for client in self.clients:
                client.stop()
            watch.stop()

    def _tables_made(self) -> bool:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self.clients[0].create_table()
            return True
        return False

    def _do(self, group: tuple[Planned, ...]) -> None:
        """Begin the faults one after the other, and heal them together, the last first."""
        time.sleep(group[0].pause)
        self.world.save_consul()
        self.say(f"fault {', '.join(f'{one.number} {one.kind}' for one in group)}")
        done = Done(planned=group, at=self._now(), healed=0.0)
        self.done.append(done)
        with contextlib.ExitStack() as stack:
            for number, planned in enumerate(group):
                if number:
                    time.sleep(planned.pause)
                stack.enter_context(fault(self.world, planned))
            time.sleep(max(planned.seconds for planned in group))
        done.healed = self._now()

    def _settle(self) -> bool:
        """Wait for convergence; replace what stays out. False if the run cannot go on."""
        done, healed = self.done[-1], time.monotonic()
        rebuilds = self.cluster.env.get("AUTO_REBUILD", "yes") not in ("no", "0", "false", "off")

        def settled() -> bool:
            if not rebuilds and time.monotonic() - healed > SAY:
                self._replace("diverged")
            return not self.world.unsettled() and self.history.last_acknowledged() > healed

        for _ in range(NODES + 1):
            if wait_for(settled, CONVERGE, 0.3):
                break
            said = "; ".join(f"{name} says: {word}" for name, word in self.world.strays().items())
            self.blame(
                "not converged", f"after {CONVERGE:.0f} s: {self.world.unsettled() or 'no write'}; {said}"
            )
            if not self._replace(""):
                return False
        else:
            return False
        done.converged = self._now()
        done.epoch = int(self.world.record().get("epoch", 0))
        done.write_gap_s = round(self.history.gap(done.at + self.begin, time.monotonic()), 2)
        self.say(
            f"  converged {done.converged - done.healed:.1f} s after the healing, epoch {done.epoch},"
            f" longest time without a write {done.write_gap_s} s"
        )
        return True

    def _replace(self, word: str) -> bool:
        """Replace one node that stays out and whose hooks say so with this word, as a person would do.

        Not without a primary: a new node would have nobody to follow, and the old ones may be all there is.
        """
        if self.cluster.catalogue.primary is None:
            return False
        for name, said in self.world.strays().items():
            if word in said:
                self.say(f"  replacing {name}: {said}")
                self.replaced += 1
                self.world.replace(self.cluster.node(name), self.options.directory)
                return True
        return False

    def _judge(self) -> None:
        """What the primary holds, while the clients go on; and the hooks."""
        told = self.history.so_far()
        held = read(self.world.primary())
        if held is None:
            self.blame("no answer", f"{self.world.primary().name} cannot be read")
            return
        self._compare(told, held)
        for hook in self.world.hung(self.begin + self.done[-1].healed):
            self.blame("hung hook", f"{hook.command} of {hook.node} (process {hook.pid})")

    def _compare(self, told: list[Any], held: checker.Held) -> None:
        missing = [one for one in checker.missing(told, held) if one.row not in self.lost]
        self.lost |= {one.row for one in missing}
        if missing and self.options.durability == "semisync":
            first = missing[0]
            self.blame(
                "lost",
                f"{len(missing)} acknowledged writes are missing on {held.node}, the first is {first.row}"
                f" acknowledged at {first.end - self.begin:.2f} s by {first.server}:"
                f" {checker.some([one.row for one in missing])}",
            )
        elif missing:
            self.say(f"  async: {len(missing)} acknowledged writes are gone")
        running = [client.running for client in self.clients]
        made_up = checker.unexpected(self.history.so_far(), held, running=running)
        if made_up:
            self.blame("made up", f"{held.node} has what nobody wrote: {checker.some(made_up)}")
        for line in checker.disorder(told, held):
            self.blame("disorder", f"{held.node}: {line}")

    def _agree(self) -> None:
        """The clients have stopped: every node must hold the same, and all of it."""
        told = self.history.so_far()
        if not wait_for(lambda: len(set(self._sets().values())) == 1, AGREE, 0.5):
            for line in checker.differences(self._sets(), "GTID sets"):
                self.blame("different", line)
        for node in self.cluster.nodes:
            held = read(node)
            if held is None:
                self.blame("no answer", f"{node.name} cannot be read")
            else:
                self._compare(told, held)
        sums = {node.name: checksums(node) for node in self.cluster.nodes}
        for line in checker.differences(sums, "checksums"):
            self.blame("different", line)

    def _sets(self) -> dict[str, str]:
        found = {}
        for node in self.cluster.nodes:
            try:
                found[node.name] = str(node.mysql("SELECT @@gtid_executed AS gtid", seconds=5.0)[0]["gtid"])
            except (pymysql.MySQLError, OSError) as error:
                found[node.name] = str(error)
        return found

    def _overlaps(self, primaries: dict[int, str]) -> None:
        found = checker.overlaps(self.history.so_far(), primaries)
        longest = max((one.seconds for one in found), default=0.0)
        if found and (self.options.durability == "semisync" or longest > LEASE + LEASE_SLACK):
            worst = max(found, key=lambda one: one.seconds)
            self.blame(
                "two servers",
                f"{len(found)} acknowledgements up to {longest:.2f} s after another server's: {worst.late.row} by"
                f" {worst.late.server} at {worst.late.end - self.begin:.2f} s, {worst.early.row} by"
                f" {worst.early.server} at {worst.early.end - self.begin:.2f} s",
            )
        elif found:
            self.say(f"async: {len(found)} acknowledgements up to {longest:.2f} s after another server's")

    def _now(self) -> float:
        return round(time.monotonic() - self.begin, 2)

    # --- The report -----------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """The run as plain values."""
        converged = [one.converged - one.healed for one in self.done if one.converged is not None]
        return {
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "durability": self.options.durability,
            "overlap": self.options.overlap,
            "kinds": list(self.options.kinds),
            "seconds": self._now(),
            "faults": sum(len(one.planned) for one in self.done),
            "by_kind": {
                kind: sum(planned.kind == kind for one in self.done for planned in one.planned)
                for kind in self.options.kinds
            },
            "operations": self.history.counts(),
            "lost": len(self.lost),
            "epochs": max((one.epoch for one in self.history.records), default=0),
            "promotions_judged": self.promotions,
            "replaced_nodes": self.replaced,
            "longest_write_gap_s": max((one.write_gap_s for one in self.done), default=0.0),
            "longest_convergence_s": round(max(converged, default=0.0), 1),
            "violations": [asdict(one) for one in self.violations],
            "done": [
                {
                    "faults": [
                        f"{planned.number} {planned.kind} {planned.target}" for planned in one.planned
                    ],
                    "at_s": one.at,
                    "healed_s": one.healed,
                    "converged_s": one.converged,
                    "write_gap_s": one.write_gap_s,
                    "epoch": one.epoch,
                }
                for one in self.done
            ],
        }

    def keep(self) -> None:
        """Write the summary; after a violation, or if asked, also the history, the schedule and every log."""
        directory = self.options.directory
        (directory / "summary.json").write_text(json.dumps(self.summary(), indent=2) + "\n")
        if self.violations or self.options.keep:
            self.history.save(directory)
            plan = [asdict(planned) for one in self.done for planned in one.planned]
            (directory / "schedule.json").write_text(json.dumps(plan, indent=2) + "\n")
            for node in self.cluster.nodes:
                self.world.keep_log(node, directory)
            with contextlib.suppress(FileNotFoundError):
                text = (self.world.consul_directory / "consul.log").read_bytes()
                (directory / "consul.log").write_bytes(text)
