"""Faults between us and Consul: each ends in time, in the right one of our errors."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manager.discovery.client import Client, Operation
from manager.discovery.discovery import Discovery
from manager.discovery.record import Record
from manager.errors import ConsulDenied, ConsulError, ConsulUnavailable, TransactionRefused
from manager.pilot import open_pilot
from sandbox import servers
from sandbox.packages import Packages
from tests.documents import the_block
from tests.integration.consul_nodes import make_node, make_settings, new_service, request

MASTER = "11111111-1111-1111-1111-111111111111"
GOOD = "22222222-2222-2222-2222-222222222222"
WEAK = "33333333-3333-3333-3333-333333333333"
StartConsul = Callable[..., servers.Consul]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def record() -> Record:
    return Record.founding(primary="u1", primary_name="node-1", origin="initialised", reason="empty")


def discovery_at(address: str, run_dir: Path, *, timeout: float = 2.0, **environ: str) -> Discovery:
    settings = make_settings("mysql", run_dir, node="node-1", address=address, **environ)
    return Discovery(settings, timeout=timeout)


# --- Nobody, nothing, no leader -----------------------------------------------------------------


def test_a_refused_connection_is_unavailable_and_no_library_exception(tmp_path: Path) -> None:
    discovery = discovery_at("127.0.42.31", tmp_path)
    pilot = open_pilot(make_settings("mysql", tmp_path, node="node-1", address="127.0.42.31"))
    calls = (
        discovery.view,
        discovery.ensure_session,
        discovery.destroy_session,
        pilot.withdraw,
        lambda: discovery.found(record(), GOOD),
        lambda: pilot.advertise("primary", passing=True, note=""),
        lambda: discovery.failover_lock("x").__enter__(),
    )
    with within(5.0):
        for call in calls:
            with pytest.raises(
                ConsulUnavailable, match=r"127\.0\.42\.31:8500 cannot be reached: connection refused"
            ):
                call()


def test_an_unknown_name_is_unavailable(tmp_path: Path) -> None:
    discovery = discovery_at("127.0.42.31", tmp_path, CONSUL_AGENT="no", CONSUL="consul.invalid")
    with pytest.raises(ConsulUnavailable, match="consul.invalid:8500 cannot be reached"):
        discovery.view()


def test_a_frozen_consul_is_unavailable_in_time_and_not_a_refusal(
    start_consul: StartConsul, tmp_path: Path
) -> None:
    consul = start_consul("127.0.42.32")
    node = make_node("mysql", tmp_path, node="node-1", address=consul.address)
    session = node.discovery.ensure_session()
    slow = Discovery(node.settings, timeout=0.5)
    consul.process.freeze()
    try:
        with within(5.0), pytest.raises(ConsulUnavailable, match="did not answer in time"):
            slow.found(record(), session)
        with within(5.0), pytest.raises(ConsulUnavailable):
            slow.view()
    finally:
        consul.process.thaw()


def test_an_agent_without_a_server_is_unavailable(packages: Packages, tmp_path: Path) -> None:
    server, agent = "127.0.42.33", "127.0.42.34"
    with (
        servers.consul_server(packages, tmp_path / "server", address=server) as consul,
        servers.consul_agent(packages, tmp_path / "a", address=agent, server=server, name="node-1"),
    ):
        node = make_node("mysql", tmp_path / "run", node="node-1", address=agent)
        node.discovery.view()
        consul.process.kill()
        with within(10.0), pytest.raises(ConsulUnavailable):
            node.discovery.view()
        # What is the agent's own still works: a role can be withdrawn although Consul is away.
        node.pilot.advertise("replica", passing=False, note="")
        node.pilot.withdraw()


def test_something_else_at_the_address_is_no_consul(
    packages: Packages, tmp_path: Path, start_s3: Any
) -> None:
    s3 = start_s3("127.0.42.35")
    discovery = discovery_at("127.0.42.35", tmp_path, CONSUL=s3.endpoint.removeprefix("http://"))
    with pytest.raises(ConsulError) as caught:
        discovery.view()
    assert "\n" not in str(caught.value)


def test_proxies_and_addresses_of_the_environment_are_ignored(
    start_consul: StartConsul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul = start_consul("127.0.42.36")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.42.31:1")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.42.31:1")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    assert discovery_at(consul.address, tmp_path).view().record is None


# --- Values and keys ----------------------------------------------------------------------------


def test_values_are_bytes_and_may_be_anything(start_consul: StartConsul, tmp_path: Path) -> None:
    consul = start_consul("127.0.42.37")
    client = Client(make_settings("mysql", tmp_path, node="node-1", address=consul.address))
    request(consul.address, "PUT", "kv/a", b"\xff\x00")
    request(consul.address, "PUT", "kv/b", b"")
    client.transaction([Operation.cas("c", "naïve", 0)])
    found = client.read(["a", "b", "c", "d"])
    assert sorted(found) == ["a", "b", "c"]
    assert (found["a"].value, found["b"].value, found["c"].text) == (b"\xff\x00", b"", "naïve")
    assert found["c"].session is None


def test_a_plain_write_elsewhere_leaves_the_lock_where_it_is(
    start_consul: StartConsul, tmp_path: Path
) -> None:
    """Consul lets anybody overwrite a held key; the holder is who counts, not the value."""
    consul = start_consul("127.0.42.38")
    node = make_node("mysql", tmp_path, node="node-1", address=consul.address)
    session = node.discovery.ensure_session()
    index = node.discovery.found(record(), session)
    request(consul.address, "PUT", f"kv/{node.settings.primary_key}", b"node-7")
    seen = node.discovery.view()
    assert (seen.lock_session, seen.lock_value) == (session, "node-7")
    node.discovery.update(record().opened(), index, session)
    # DELETE removes a held key, and then nobody holds it.
    request(consul.address, "DELETE", f"kv/{node.settings.primary_key}")
    with pytest.raises(TransactionRefused):
        node.discovery.update(record().opened(), node.discovery.view().record_index, session)


# --- Access rules -------------------------------------------------------------------------------


@pytest.fixture
def guarded(start_consul: StartConsul) -> str:
    """A Consul that denies by default, with the documented token and one that may do nothing of ours."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER, "agent": MASTER}}
    address = start_consul("127.0.42.39", config={"acl": acl}).address
    for name, token, policy in (
        ("good", GOOD, the_block(__file__, "guarded").text),
        ("weak", WEAK, 'key_prefix "other" { policy = "write" }'),
    ):
        request(address, "PUT", "acl/policy", {"Name": name, "Rules": policy}, X_Consul_Token=MASTER)
        body = {"SecretID": token, "Policies": [{"Name": name}]}
        request(address, "PUT", "acl/token", body, X_Consul_Token=MASTER)
    return address


def test_the_documented_rules_are_enough(guarded: str, tmp_path: Path) -> None:
    node = make_node("mysql", tmp_path, node="node-1", address=guarded, CONSUL_HTTP_TOKEN=GOOD)
    session = node.discovery.ensure_session()
    index = node.discovery.found(record(), session)
    node.pilot.advertise("primary", passing=True, note="")
    node.discovery.update(record().opened(), index, session)
    with node.discovery.failover_lock("x") as lock:
        lock.step("y")
    seen = node.discovery.view()
    assert (seen.lock_session, dict(seen.sessions)) == (session, {"node-1": session})
    node.discovery.destroy_session()


@pytest.mark.parametrize("environ", [{"CONSUL_HTTP_TOKEN": WEAK}, {"CONSUL_HTTP_TOKEN": "x" * 36}, {}])
def test_what_a_rule_hides_is_denied_and_not_absent(
    guarded: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    settings = make_settings("mysql", tmp_path, node="node-1", address=guarded, **environ)
    discovery, pilot, client = Discovery(settings), open_pilot(settings), Client(settings)
    calls = (
        discovery.view,
        discovery.ensure_session,
        lambda: discovery.found(record(), GOOD),
        lambda: discovery.touch(record(), 0),
        lambda: discovery.failover_lock("x").__enter__(),
        lambda: pilot.advertise("primary", passing=True, note=""),
        lambda: client.service("mysql-primary"),
    )
    for call in calls:
        with pytest.raises(ConsulDenied) as caught:
            call()
        assert "CONSUL_HTTP_TOKEN" in str(caught.value)
        assert environ.get("CONSUL_HTTP_TOKEN", "no token") not in str(caught.value)


def test_an_existing_record_that_a_rule_hides_is_not_taken_for_none(guarded: str, tmp_path: Path) -> None:
    request(guarded, "PUT", "kv/mysql-cluster", b"{}", X_Consul_Token=MASTER)
    with pytest.raises(ConsulDenied):
        discovery_at(guarded, tmp_path, CONSUL_HTTP_TOKEN=WEAK).view()


def test_the_settings_token_wins_over_the_environment(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", WEAK)
    assert discovery_at(guarded, tmp_path, CONSUL_HTTP_TOKEN=GOOD).view().record is None
    with pytest.raises(ConsulDenied):
        discovery_at(guarded, tmp_path).view()


# --- TLS ----------------------------------------------------------------------------------------


def test_tls_with_the_given_authority(
    packages: Packages, start_consul: StartConsul, server_directory: Path, tmp_path: Path
) -> None:
    address = "127.0.42.40"
    for arguments in (["ca", "create"], ["cert", "create", "-server", f"-additional-ipaddress={address}"]):
        subprocess.run(
            [packages.consul, "tls", *arguments], cwd=server_directory, check=True, capture_output=True
        )
    start_consul(
        address,
        config={
            "ports": {"https": 8501},
            "cert_file": str(server_directory / "dc1-server-consul-0.pem"),
            "key_file": str(server_directory / "dc1-server-consul-0-key.pem"),
        },
    )
    tls = {"CONSUL_AGENT": "no", "CONSUL": f"{address}:8501", "CONSUL_HTTP_SSL": "yes"}
    authority = str(server_directory / "consul-agent-ca.pem")
    assert discovery_at(address, tmp_path, **tls, CONSUL_CACERT=authority).view().record is None
    with pytest.raises(ConsulUnavailable, match="its TLS certificate is not accepted"):
        discovery_at(address, tmp_path, **tls).view()
    garbled = tmp_path / "garbled.pem"
    garbled.write_text("no certificate")
    with pytest.raises(ConsulUnavailable, match="CONSUL_CACERT"):
        discovery_at(address, tmp_path, **tls, CONSUL_CACERT=str(garbled)).view()


def test_many_services_do_not_mix(start_consul: StartConsul, tmp_path: Path) -> None:
    consul = start_consul("127.0.42.41")
    ours = make_node(new_service(), tmp_path / "1", node="node-1", address=consul.address)
    theirs = make_node(
        f"{ours.settings.service_name}-b", tmp_path / "2", node="node-1", address=consul.address
    )
    theirs.discovery.found(record(), theirs.discovery.ensure_session())
    theirs.pilot.advertise("primary", passing=True, note="")
    replica = make_node(theirs.settings.service_name, tmp_path / "3", node="node-2", address=consul.address)
    replica.pilot.advertise("replica", passing=True, note="")
    seen = ours.discovery.view()
    assert (seen.record, seen.lock_session, dict(seen.sessions)) == (None, None, {})
    assert [one.service for one in seen.instances] in ([], ["node"])
