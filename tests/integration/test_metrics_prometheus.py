"""A real Prometheus scrapes the nodes, and takes the alert rules of docs/metrics.md (127.0.79)."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager import metrics
from sandbox.cluster import Cluster
from sandbox.packages import Packages, program
from sandbox.processes import Process
from tests.documents import ROOT, claimed, replaced
from tests.integration.clusters import LONG, consul, converged, running, the_record, until

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]

ADDRESS = "127.0.79.5:9090"
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
DISCOVERY = """\
    consul_sd_configs:
      - server: consul:8500
        services: [mysql-node]
"""


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "prometheus", "127.0.79") as made:
        made.add_node()
        made.add_node(pilot="containerpilot")
        yield made


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, module_directory: Path) -> Iterator[Process]:
    converged(cluster, 1)
    scrape, rules = claimed(__file__, "prometheus")
    (module_directory / "rules.yml").write_text(rules.text)
    here = [(DISCOVERY, f"    static_configs: {json.dumps(found_in_consul(cluster))}\n"), ("5s", "2s")]
    general = "global: {evaluation_interval: 2s}\nrule_files: [rules.yml]\n"
    (module_directory / "prometheus.yml").write_text(general + replaced(scrape.text, here))
    command = [
        *program("prometheus", "usr/bin/prometheus"),
        f"--config.file={module_directory}/prometheus.yml",
        f"--storage.tsdb.path={module_directory}/data",
        f"--web.listen-address={ADDRESS}",
    ]
    process = Process(command, log=module_directory / "prometheus.log")
    until(lambda: process.alive and get("/-/ready") is not None, LONG, "Prometheus is not ready")
    yield process
    process.kill()


def found_in_consul(cluster: Cluster) -> list[dict[str, Any]]:
    """What Prometheus's own discovery in Consul would find: Debian builds Prometheus without it."""
    return [
        {
            "targets": [f"{one['ServiceAddress']}:{one['ServicePort']}"],
            "labels": {
                "__meta_consul_service_address": one["ServiceAddress"],
                "__meta_consul_service_id": one["ServiceID"],
            },
        }
        for one in consul(cluster, "catalog/service/mysql-node")
    ]


def get(path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=5.0) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def query(expression: str) -> list[dict[str, Any]]:
    text = get(f"/api/v1/query?query={urllib.parse.quote(expression)}")
    return list(json.loads(text)["data"]["result"]) if text else []


def number(expression: str) -> float | None:
    found = query(expression)
    return float(found[0]["value"][1]) if found else None


def test_every_node_can_be_scraped(cluster: Cluster, prometheus: Process) -> None:
    names = {node.name for node in cluster.nodes}
    until(
        lambda: {one["metric"]["node"] for one in query("up == 1")} == names,
        LONG,
        lambda: str(query("up")),
    )


def test_the_nodes_say_who_is_primary_and_how_the_cluster_is(cluster: Cluster, prometheus: Process) -> None:
    record = the_record(cluster)
    wanted = {
        "sum(autopilot_mysql_primary)": 1,
        "sum(autopilot_mysql_replica)": 1,
        "min(autopilot_mysql_epoch)": record["epoch"],
        "min(autopilot_mysql_semisync)": 1,
        "min(autopilot_mysql_members)": 1,
        "min(autopilot_mysql_replication_running) + max(autopilot_mysql_replication_running)": 1,
        "min(time() - autopilot_mysql_health_timestamp_seconds) < bool 30": 1,
        "min(autopilot_mysql_snapshot_size_bytes) > bool 0": 1,
    }
    for expression, value in wanted.items():
        until(
            lambda expression=expression, value=value: number(expression) == value,
            LONG,
            f"{expression} is not {value}",
        )


def test_every_metric_of_the_document_is_one_of_ours(prometheus: Process) -> None:
    named = set(re.findall(r"autopilot_mysql_([a-z_]+)", DOCUMENT))
    assert named <= {metric.name for metric in metrics.METRICS}


def test_nothing_alarms_while_all_is_well_and_a_lost_node_does(cluster: Cluster, prometheus: Process) -> None:
    text = get("/api/v1/rules")
    assert text is not None
    rules = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    assert len(rules) == DOCUMENT.count("- alert:")
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    until(lambda: query('ALERTS{alertstate="firing"}') == [], LONG, lambda: str(query("ALERTS")))
    for node in cluster.nodes:
        node.kill()
    until(lambda: query('ALERTS{alertname="MySQLNoPrimary"}') != [], LONG, "nothing alarms")


def test_the_rules_are_sound(prometheus: Process, module_directory: Path) -> None:
    done = subprocess.run(
        [*program("prometheus", "usr/bin/promtool"), "check", "rules", str(module_directory / "rules.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
