"""`make demo`: the whole life of a cluster in about a minute, with real servers, told as it happens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3
import pymysql

from sandbox import mysqls
from sandbox.cluster import BUCKET, DATABASE, Cluster, SandboxError, default_directory
from sandbox.health import Endpoint
from sandbox.node import Node
from sandbox.packages import ROOT, PackagesError
from sandbox.processes import wait_for
from sandbox.writer import Writer

SUMMARY = ROOT / "build" / "demo-summary.json"


class Demo:
    """The stages, in order; each raises SandboxError in one line when it does not come true in time."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.summary: dict[str, Any] = {}
        self.say("looking for the servers' packages in the cache (unpacked once)")
        packages = mysqls.chosen()
        self.summary["packages_s"] = self._since(self._begin)
        self.cluster = Cluster(default_directory(), packages=packages)
        password = self.cluster.secrets["MYSQL_PASSWORD"]
        self.writer = Writer(self.cluster.catalogue, user="app", password=password, database=DATABASE)

    def run(self) -> None:
        """Go through all stages, and leave the cluster running."""
        Cluster(self.cluster.directory, packages=self.cluster.packages).down()
        self.start_three()
        self.write_and_read()
        self.first_snapshot()
        self.add_fourth()
        killed = self.kill_primary()
        self.bring_back(killed)
        self.count_rows()
        self.summary["total_s"] = self._since(self._begin)

    # --- The stages -----------------------------------------------------------------------------

    def start_three(self) -> None:
        """Three identical nodes: one becomes the primary, two its replicas."""
        self.say("starting Consul, an S3 server and three identical nodes")
        begin = time.monotonic()
        self.cluster.up(3)
        nodes_begin = time.monotonic()
        self.summary["servers_s"] = round(nodes_begin - begin, 1)
        primary = self.cluster.wait_primary(120.0)
        self.summary["first_primary_s"] = self._since(nodes_begin)
        self.say(f"{primary.node} is the primary after {self.summary['first_primary_s']} s")
        self.summary["replica_joined_s"] = {}
        self._wait_joined({node.name for node in self.cluster.nodes} - {primary.node}, nodes_begin)
        self.show_status()

    def _wait_joined(self, names: set[str], begin: float) -> None:
        """Wait until these nodes are healthy replicas, and note when each became one."""
        joined: dict[str, float] = self.summary["replica_joined_s"]

        def all_joined() -> bool:
            for replica in self.cluster.catalogue.replicas:
                if replica.node in names and replica.node not in joined:
                    joined[replica.node] = self._since(begin)
                    self.say(f"{replica.node} is a replica after {joined[replica.node]} s")
            return names <= joined.keys()

        self._until(all_joined, 120.0, f"not all of {', '.join(sorted(names))} became healthy replicas")

    def write_and_read(self) -> None:
        """Rows written on the primary are read on both replicas."""
        self.say("a client looks up the primary in Consul and writes rows")
        self.writer.create_table()
        self.writer.start()
        self._until(
            lambda: len(self.writer.history.acknowledged) >= 50, 30.0, "50 rows were not acknowledged"
        )
        expected = set(list(self.writer.history.acknowledged)[:50])
        for replica in self.cluster.catalogue.replicas:
            check = partial(self._has_rows, replica, expected)
            self._until(check, 30.0, f"{replica.node} lacks rows")
        self.say(
            f"{len(expected)} rows read on {', '.join(one.node for one in self.cluster.catalogue.replicas)}"
        )

    def first_snapshot(self) -> None:
        """The first snapshot is due at once, and its record follows the object."""
        self.say("waiting for the first snapshot in S3")
        key = f"{self.cluster.service_name}-last-backup"
        self._until(lambda: self.cluster.catalogue.key(key) is not None, 90.0, "no snapshot was recorded")
        secrets = self.cluster.secrets
        client = boto3.client(
            "s3",
            endpoint_url=self.cluster.s3_endpoint,
            aws_access_key_id=secrets["AWS_ACCESS_KEY"],
            aws_secret_access_key=secrets["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        objects = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        for one in objects:
            self.say(f"  s3://{BUCKET}/{one['Key']}  {one['Size']} bytes")
        if not objects:
            raise SandboxError("a snapshot is recorded, but the bucket is empty")

    def add_fourth(self) -> None:
        """A new node restores the snapshot and joins as a replica."""
        self.say("adding a fourth node; it restores that snapshot")
        begin = time.monotonic()
        node = self.cluster.add_node()
        self._wait_joined({node.name}, begin)
        origin = json.loads((node.directory / "data" / ".autopilot.json").read_text())["origin"]
        if origin != "restored":
            raise SandboxError(f"{node.name} joined, but its data directory is {origin}, not restored")
        self.show_status()

    def kill_primary(self) -> Node:
        """SIGKILL for every process of the primary, under the writer."""
        victim = self.cluster.node(self._primary().node)
        self.say(f"SIGKILL for all processes of {victim.name}, the primary, while the client writes")
        victim.kill()
        killed_at = time.monotonic()
        primary = self.cluster.wait_primary(90.0, other_than=victim.name)
        history = self.writer.history
        self._until(
            lambda: history.gap(killed_at) is not None, 60.0, "no write was acknowledged after the failover"
        )
        self.summary["write_gap_s"] = round(history.gap(killed_at) or 0.0, 1)
        self.say(f"{primary.node} takes writes; none was acknowledged for {self.summary['write_gap_s']} s")
        count = len(history.acknowledged)
        self._until(
            lambda: len(history.acknowledged) >= count + 100, 30.0, "the new primary stopped taking writes"
        )
        self.show_status()
        return victim

    def bring_back(self, node: Node) -> None:
        """The killed node comes back as a replica; what it alone had is saved to the store and cut off first."""
        self.say(f"starting {node.name} again")
        begin = time.monotonic()
        node.start()

        def back() -> bool:
            return any(replica.node == node.name for replica in self.cluster.catalogue.replicas)

        self._until(back, 90.0, f"{node.name} did not come back")
        self.summary["killed_node_back_s"] = self._since(begin)
        self.say(f"{node.name} is back as a replica after {self.summary['killed_node_back_s']} s")

    def count_rows(self) -> None:
        """Compare what the writer was told with what every healthy node holds."""
        self.writer.stop()
        history = self.writer.history
        primary = self._primary()
        present = self._read(primary)
        for replica in self.cluster.catalogue.replicas:
            check = partial(self._has_rows, replica, present)
            self._until(check, 30.0, f"{replica.node} lacks rows")
            if self._read(replica) != present:
                raise SandboxError(f"{replica.node} has rows that the primary lacks")
        self.summary["rows_acknowledged"] = len(history.acknowledged)
        self.summary["rows_unknown"] = len(history.unknown)
        self.summary["rows_missing"] = len(history.missing(present))
        self.summary["rows_unexpected"] = len(history.unexpected(present))
        self.show_status()

    # --- Helpers --------------------------------------------------------------------------------

    def _primary(self) -> Endpoint:
        return self.cluster.wait_primary(30.0)

    def _read(self, endpoint: Endpoint) -> set[int]:
        """The rows that a node shows; none while it does not answer."""
        try:
            return self.writer.read(endpoint)
        except pymysql.MySQLError:
            return set()

    def _has_rows(self, endpoint: Endpoint, rows: set[int]) -> bool:
        return rows <= self._read(endpoint)

    def _until(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        if not wait_for(condition, seconds, 0.1):
            raise SandboxError(
                f"{complaint} within {seconds:.0f} s; see {self.cluster.directory}/node-*/node.log"
            )

    def _since(self, begin: float) -> float:
        return round(time.monotonic() - begin, 1)

    def say(self, text: str) -> None:
        """One line of progress, with the seconds since the beginning."""
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", flush=True)

    def show_status(self) -> None:
        """The table of `manage.py status`."""
        print()
        print(self.cluster.status(), flush=True)


def report(summary: dict[str, Any]) -> None:
    """Print the summary and write it to build/demo-summary.json."""
    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text(json.dumps(summary, indent=2) + "\n")
    labels = {
        "first_primary_s": "seconds to the first primary",
        "replica_joined_s": "seconds to each joined replica",
        "write_gap_s": "seconds without an acknowledged write at the failover",
        "killed_node_back_s": "seconds until the killed node was back",
        "rows_acknowledged": "rows acknowledged",
        "rows_unknown": "rows without an answer",
        "rows_missing": "rows acknowledged and missing",
        "rows_unexpected": "rows unexpected",
        "total_s": "seconds in all",
    }
    print("Summary")
    for name, label in labels.items():
        value = summary.get(name)
        text = (
            ", ".join(f"{node} {seconds}" for node, seconds in value.items())
            if isinstance(value, dict)
            else value
        )
        print(f"  {label:<55} {text}")
    print(f"also in {SUMMARY.relative_to(ROOT)}")


def main() -> int:
    """Run the demo; return 0 if every stage came true and no row was there that should not be."""
    try:
        demo = Demo()
        demo.run()
    except (SandboxError, PackagesError, pymysql.MySQLError) as error:
        print(f"demo: {error}", file=sys.stderr)
        print("What is running stays for a look; `make demo-down` removes it.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; `make demo-down` removes what is running", file=sys.stderr)
        return 130
    report(demo.summary)
    print("\nThe cluster is still running. Look at it:  sandbox/ctl status   sandbox/ctl --help")
    print("Remove it:                                 make demo-down")
    return 1 if demo.summary["rows_unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
