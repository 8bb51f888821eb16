"""The configuration of a node's own Consul agent; under the pilot `consul` it also runs `health` and `on_change`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manager.discovery.cluster import service_id
from manager.settings import Settings

# Measured: with these on all agents a lost host shows after 1.7 s instead of 6.9 s.
GOSSIP = {
    "probe_interval": "500ms",
    "probe_timeout": "250ms",
    "suspicion_mult": 2,
    "gossip_interval": "100ms",
}


def agent_config(settings: Settings, manage: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of this node's own agent, in client mode.

    `manage` is the command line of manage.py without its arguments. The result holds CONSUL_HTTP_TOKEN
    where one is set, so it belongs in a file that only its owner can read. The names of service and check
    are those to which the node's session is bound.
    """
    client_address, http_port = settings.consul_client_address, settings.consul_port
    config: dict[str, Any] = {
        "node_name": f"{settings.service_name}-{settings.node_name}",
        "data_dir": str(settings.run_dir / "consul"),
        "bind_addr": settings.node_address,
        "client_addr": client_address,
        "ports": {"http": http_port},
        "retry_join": [settings.consul],
        "retry_interval": "1s",
        "rejoin_after_leave": True,
        "leave_on_terminate": True,
        "performance": {"leave_drain_time": "1s"},
        "enable_local_script_checks": True,
        "disable_update_check": True,
        # How late the note of a role that stays passing, or failing, may be seen.
        "check_update_interval": "5s",
        "gossip_lan": GOSSIP,
        "log_level": "WARN",
        # Somebody begins to hand the role over, or to fail over: each node is ready to advertise its new role.
        "watches": [
            {
                "type": "key",
                "key": settings.failover_lock_key,
                "handler_type": "script",
                "args": [*manage, "on_change", "--witness"],
            }
        ],
    }
    if settings.pilot == "consul":
        config["services"] = [_node_service(settings, manage)]
        config["watches"].append(
            {
                "type": "service",
                "service": settings.primary_service,
                "passingonly": True,
                "handler_type": "script",
                "args": _unless_taken(settings.run_dir / "witness.lock", [*manage, "on_change"]),
            }
        )
    if settings.consul_http_token is not None:
        token = settings.consul_http_token.value
        config["acl"] = {"enabled": True, "tokens": {"default": token, "agent": token}}
    return config


def _unless_taken(lock: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs `command`, or ends at once while another process of the node holds the lock file.

    A switchover changes the set of primaries twice, and the witness that is there already sees to it: three Python
    interpreters that only find this out cost the servers 0.2 s of processor while writes wait (measured).
    """
    return ["sh", "-c", 'flock -n -E 75 "$0" true; [ $? = 75 ] || exec "$@"', str(lock), *command]


def _node_service(settings: Settings, manage: Sequence[str]) -> dict[str, Any]:
    """The service that passes while the local mysqld answers; `health` registers the roles by itself.

    One slow check must not flip a node, hence two failures in a row (Consul 1.7 and later); and the hook ends
    itself after 4 s, so Consul's own limit is only for one that cannot even do that.
    """
    identity = service_id(settings, "node")
    return {
        "id": identity,
        "name": settings.node_service,
        "address": settings.node_address,
        "port": settings.mysql_port,
        "checks": [
            {
                "id": f"service:{identity}",
                "name": "mysqld answers",
                "args": [*manage, "health", "--as", "node"],
                "interval": "2s",
                "timeout": "10s",
                "failures_before_critical": 2,
            }
        ],
    }
