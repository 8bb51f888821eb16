"""etc/containerpilot.json5 against a strict model of what ContainerPilot 3.8 takes, and where it goes wrong."""

from __future__ import annotations

import pytest

from manager import metrics
from manager.pilot import containerpilot
from manager.pilot.programs import HANDOVER_SECONDS, STOP_SECONDS
from tests.containerpilot.schema import Config, Job, SchemaError, parse
from tests.containerpilot.template import render
from tests.documents import replaced, the_block

ENVIRON = {
    "CONSUL_URL": "http://127.0.0.1:8500",
    "CONSUL_AGENT": "1",
    "SERVICE_NAME": "shop",
    "NODE_ADDRESS": "198.18.0.11",
    "MYSQL_PORT": "3307",
    "METRICS_PORT": "9091",
    "RUN_DIR": "/run/node",
}
TEXT = containerpilot.CONFIG.read_text()


def config(**environ: str) -> Config:
    return parse(render(TEXT, {**ENVIRON, **environ}))


def jobs(found: Config) -> dict[str, Job]:
    return {job.name: job for job in found.jobs}


def test_it_is_valid_with_an_agent_and_without() -> None:
    with_agent, without = jobs(config()), jobs(config(CONSUL_AGENT=""))
    assert set(with_agent) - set(without) == {"consul-agent", "agentStays"}


def test_it_takes_what_pilot_py_gives_it() -> None:
    found = config()
    assert (found.consul, found.socket) == ("http://127.0.0.1:8500", "/run/node/containerpilot.socket")
    assert found.watches == {"shop-primary": 1}
    assert found.telemetry is not None
    assert (found.telemetry.address, found.telemetry.port) == ("198.18.0.11", 9091)
    assert config(METRICS_PORT="").telemetry is None


def test_three_services_are_advertised_and_mysqld_is_none() -> None:
    shown = {job.name: job for job in config().jobs if job.port is not None}
    assert set(shown) == {"shop-node", "shop-primary", "shop"}
    assert {(job.port, job.address) for job in shown.values()} == {(3307, "198.18.0.11")}
    asked = {name: job.health.command[-1] for name, job in shown.items() if job.health is not None}
    assert asked == {"shop-node": "alive", "shop-primary": "primary", "shop": "replica"}
    node = shown["shop-node"].health
    assert node is not None
    assert node.ttl == containerpilot.NODE_TTL


def test_the_documented_watch() -> None:
    own = '{ consul: "consul:8500", control: { socket: "/run/app.socket" },'
    found = parse(replaced(the_block(__file__, "test_the_documented_watch").text, [("{\n", f"{own}\n")]))
    assert found.watches == {"mysql-primary": 1}
    (job,) = found.jobs
    assert (job.event, job.source, job.each) == ("changed", "watch.mysql-primary", True)
    assert job.command == ("/usr/local/bin/reconnect.sh",)


def test_no_service_may_have_the_name_of_a_job() -> None:
    shown = {"shop", "shop-primary", "shop-node"}
    assert {job.name for job in config(CONSUL_AGENT="").jobs if "Stays" not in job.name} - shown == set(
        containerpilot.JOBS
    )


def test_mysqld_starts_after_pre_start_and_always_again() -> None:
    found = jobs(config())
    assert (found["mysqld"].event, found["mysqld"].source) == ("exitSuccess", "preStart")
    assert found["mysqld"].unlimited
    assert not found["preStart"].unlimited


def test_no_time_limit_ends_a_large_snapshot_or_restore() -> None:
    found = jobs(config())
    assert [found[name].timeout for name in ("preStart", "mysqld", "snapshot")] == [None, None, None]


def test_the_hand_over_comes_before_the_end_of_everything_that_it_needs() -> None:
    found = jobs(config())
    assert (found["stop"].event, found["stop"].source) == ("stopping", "mysqld")
    assert (found["stop"].timeout or 0) > HANDOVER_SECONDS + STOP_SECONDS
    waiting = {
        job.source for job in found.values() if "stopped" in " ".join(job.command) and job.event == "stopping"
    }
    assert waiting == {"consul-agent", "health", "shop-node", "shop-primary", "shop"}
    assert min(job.timeout or 0 for job in found.values() if job.source in waiting) >= (
        found["stop"].timeout or 0
    )


def test_telemetry_has_every_metric() -> None:
    shown = config().telemetry
    assert shown is not None
    assert shown.metrics == {
        f"{metrics.PREFIX}{metric.name}": (metric.kind, metric.help) for metric in metrics.METRICS
    }


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("stopTimeout: 3", "stopTimeouts: 3", "the file: unknown keys stopTimeouts"),
        ("stopTimeout: 3", 'stopTimeout: "3s"', "stopTimeout: must be a whole number"),
        ('name: "mysqld"', 'name: "mysqld", command: "x"', "a job: unknown keys command"),
        ('name: "mysqld"', 'name: "mysqld", stopTimeout: "5s"', "stopTimeout of a job is broken"),
        ('name: "mysqld"', 'name: "preStart"', "two jobs have one name"),
        ('name: "shop-node"', 'name: "shop_node"', "the name of an advertised job"),
        ('name: "shop-node"', 'name: "shop-node", exec: "true"', "what is advertised has no exec"),
        ("port: 3307", 'port: "3307"', "port: must be a whole number"),
        ('once: "exitSuccess"', 'once: "succeeded"', "there is no event 'succeeded'"),
        ('once: "exitSuccess"', 'once: "exitSuccess", each: "stopped"', "only one of interval, once, each"),
        (
            'source: "preStart", once: "exitSuccess"',
            'interval: "20s"',
            "a run that takes longer blocks the job",
        ),
        ('source: "preStart"', 'source: "prestart"', "there is no prestart"),
        (
            'source: "shop-primary", once: "stopping"',
            'source: "shop", once: "stopping"',
            "the first is forgotten",
        ),
        ('restarts: "unlimited"', 'restarts: "always"', "restarts: 'always'"),
        ('each: "changed" }', 'each: "changed" }, restarts: "unlimited"', "does not go with each"),
        ('timeout: "10s"', "logging: { raw: true }", "without a timeout"),
        ('timeout: "10s"', 'timeout: "10 s"', "is no duration"),
        ('timeout: "5s"', 'timeout: "6s"', "may take longer than its interval"),
        ("ttl: 15", "ttl: 5", "run out between two checks"),
        ("ttl: 15", "TTL: 15", "unknown keys TTL"),
        ("ttl: 15,", "", "'ttl' is missing"),
        ("interval: 1 }", "interval: 1, poll: 1 }", "a watch: unknown keys poll"),
        ('type: "gauge"', 'type: "sensor"', "there is no type 'sensor'"),
        ("logging: { raw: true }", "", "set logging.raw"),
        ("{", "", "not JSON5"),
    ],
)
def test_the_model_refuses(old: str, new: str, complaint: str) -> None:
    text = render(TEXT, ENVIRON)
    assert old in text
    with pytest.raises(SchemaError, match=complaint):
        parse(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{{ .SERVICE_NAME }}", "unknown action"),
        ('{{ env "A" | printf "%q" }}', "unknown action"),
        ('{{ if env "A" }}', "without an {{ end }}"),
        ("{{ end }}", "without an {{ if }}"),
    ],
)
def test_the_template_uses_no_more_than_it_is_known_to_do(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        render(text, {})


def test_conditions_nest() -> None:
    text = '1{{ if env "A" }}2{{ if env "B" }}3{{ end }}4{{ end }}5{{ env "C" }}'
    assert render(text, {"A": "x", "B": "x", "C": "a=b"}) == "12345a=b"
    assert render(text, {"A": "x"}) == "1245"
    assert render(text, {"B": "x"}) == "15"
