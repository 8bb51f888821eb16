"""What the pilot writes for the Consul agent and for supervisord."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.flock import flocked
from manager.pilot import programs
from manager.pilot.consul import agent_config
from manager.pilot.programs import HANDOVER_SECONDS, START_INTERVAL, STOP_SECONDS, start_delay
from manager.pilot.supervisor import supervisor_config
from manager.settings import Settings, load

MANAGE = ["/venv/bin/python", "/opt/manage.py"]


def settings(**environ: str) -> Settings:
    return load(
        {
            "CONSUL": "198.18.0.2",
            "CONSUL_AGENT": "1",
            "NODE_NAME": "node-1",
            "NODE_ADDRESS": "198.18.0.11",
            "RUN_DIR": "/run/node",
            **environ,
        }
    )


def test_the_agent_joins_the_server_and_serves_its_api_at_home() -> None:
    config = agent_config(settings(CONSUL_CLIENT_ADDRESS="127.0.0.5"), MANAGE)
    assert config["retry_join"] == ["198.18.0.2"]
    assert config["bind_addr"] == "198.18.0.11"
    assert config["client_addr"] == "127.0.0.5"
    assert config["leave_on_terminate"] is True
    assert config["disable_update_check"] is True
    assert "acl" not in config


def test_the_node_service_and_its_check_have_the_names_that_the_session_is_bound_to() -> None:
    config = agent_config(settings(SERVICE_NAME="shop", MYSQL_PORT="3307"), MANAGE)
    (service,) = config["services"]
    (check,) = service["checks"]
    assert (service["name"], service["id"]) == ("shop-node", "shop-node-node-1")
    assert (service["address"], service["port"]) == ("198.18.0.11", 3307)
    assert check["id"] == "service:shop-node-node-1"
    assert check["args"] == [*MANAGE, "health", "--as", "node"]
    assert check["failures_before_critical"] == 2


def test_a_change_of_the_healthy_primaries_and_a_failover_run_on_change() -> None:
    failovers, primaries = agent_config(settings(SERVICE_NAME="shop"), MANAGE)["watches"]
    assert (primaries["service"], primaries["passingonly"]) == ("shop-primary", True)
    assert failovers["key"] == settings(SERVICE_NAME="shop").failover_lock_key
    assert primaries["args"][-3:] == [*MANAGE, "on_change"]
    assert failovers["args"] == [*MANAGE, "on_change", "--witness"]


def test_on_change_is_not_even_started_while_a_witness_is_there(tmp_path: Path) -> None:
    _, primaries = agent_config(settings(RUN_DIR=str(tmp_path)), ["echo", "started"])["watches"]

    def started() -> str:
        return subprocess.run(primaries["args"], stdout=subprocess.PIPE, text=True).stdout

    assert started() == "started on_change\n"
    with flocked(tmp_path / "witness.lock", wait=0.0, busy="taken"):
        assert started() == ""
    assert started() == "started on_change\n"


def test_without_the_program_flock_on_change_is_started_anyway(tmp_path: Path) -> None:
    (tmp_path / "echo").symlink_to("/bin/echo")
    (tmp_path / "sh").symlink_to("/bin/sh")
    _, primaries = agent_config(settings(RUN_DIR=str(tmp_path)), ["echo", "started"])["watches"]
    with flocked(tmp_path / "witness.lock", wait=0.0, busy="taken"):
        done = subprocess.run(
            primaries["args"], env={"PATH": str(tmp_path)}, stdout=subprocess.PIPE, text=True
        )
    assert done.stdout == "started on_change\n"


def test_nodes_of_two_services_on_one_host_are_different_nodes_of_consul() -> None:
    names = {agent_config(settings(SERVICE_NAME=name), MANAGE)["node_name"] for name in ("one", "two")}
    assert names == {"one-node-1", "two-node-1"}


def test_the_agent_gets_the_token() -> None:
    config = agent_config(settings(CONSUL_HTTP_TOKEN="t0ken-of-mine"), MANAGE)
    assert config["acl"]["tokens"] == {"default": "t0ken-of-mine", "agent": "t0ken-of-mine"}


@pytest.fixture
def supervisor() -> configparser.RawConfigParser:
    text = supervisor_config(
        settings(RUN_DIR="/run/a node 100%"),
        {
            name: ["/venv/bin/python", "/opt/with space/pilot.py", name]
            for name in ("agent", "mysqld", "snapshots", "handover", "metrics")
        },
    )
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(text)
    return parser


def test_hand_over_comes_first_then_mysqld_and_the_agent_leaves_last(
    supervisor: configparser.RawConfigParser,
) -> None:
    stopped_first = ("handover", "mysqld", "snapshots", "consul")
    priorities = [supervisor.getint(f"program:{name}", "priority") for name in stopped_first]
    assert priorities == sorted(priorities, reverse=True)


def test_the_pilot_itself_never_ends_mysqld_cleanly(supervisor: configparser.RawConfigParser) -> None:
    assert supervisor["program:mysqld"]["stopsignal"] == "KILL"
    longest = supervisor.getint("program:handover", "stopwaitsecs")
    assert HANDOVER_SECONDS + STOP_SECONDS < longest < 100  # Compose's grace period


def test_values_are_quoted_for_supervisord(supervisor: configparser.RawConfigParser) -> None:
    assert supervisor["program:mysqld"]["command"] == "/venv/bin/python '/opt/with space/pilot.py' mysqld"
    assert supervisor["supervisord"]["pidfile"] == "/run/a node 100%%/supervisord.pid"


def test_no_placeholder_is_left(supervisor: configparser.RawConfigParser) -> None:
    assert "$" not in "".join(value for section in supervisor.values() for value in section.values())


def test_the_configuration_holds_no_secret() -> None:
    text = supervisor_config(
        settings(MYSQL_USER="app", MYSQL_PASSWORD="s3cret-text", CONSUL_HTTP_TOKEN="t0ken-of-mine"),
        {name: [name] for name in ("agent", "mysqld", "snapshots", "handover", "metrics")},
    )
    assert "s3cret-text" not in text
    assert "t0ken-of-mine" not in text


def test_the_first_start_and_one_after_a_long_run_do_not_wait() -> None:
    assert start_delay(None, 100.0) == 0.0
    assert start_delay(100.0, 100.0 + 3600) == 0.0


@given(last=st.floats(0, 2e9), now=st.floats(0, 2e9))
def test_starts_are_spaced_and_no_clock_makes_one_wait_longer(last: float, now: float) -> None:
    delay = start_delay(last, now)
    assert 0.0 <= delay <= START_INTERVAL
    if now >= last:
        assert now + delay - last >= START_INTERVAL - 1e-6


def test_no_time_limit_ends_a_large_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def run(command: list[str], **options: object) -> None:
        assert command == [*MANAGE, "snapshot_task"]
        assert "timeout" not in options
        raise Started

    monkeypatch.setattr(programs, "pause", lambda seconds: None)
    monkeypatch.setattr(programs.subprocess, "run", run)
    with pytest.raises(Started):
        programs.run_snapshots(settings(), MANAGE)


def test_the_template_is_where_the_image_has_it() -> None:
    assert (Path(__file__).resolve().parents[2] / "etc" / "supervisord.conf.tmpl").is_file()
