"""`status`: the cluster as a table or as JSON, from any node or any host that reaches Consul."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from manager.decide.series import name as series_name
from manager.discovery.cluster import ClusterView, Instance
from manager.gtid import GtidSet
from manager.mysql.state import ServerState
from manager.node import Node
from manager.table import table
from manager.view import Peer, read_peer, read_peers

COLUMNS = ("node", "role", "address", "healthy", "replication", "lag_s", "transactions", "errant")
LOG_PREFIX = re.compile(r"^\S+Z [A-Z]+ \w+\[\d+\] ")


def run(node: Node, *, as_json: bool) -> int:
    """Print the cluster; exit code 0 if there is a healthy primary, 1 if not."""
    cluster = node.discovery.view()
    peers = _primary_last(node, cluster, read_peers(node, cluster, others_only=False))
    report = describe(cluster, peers, now=time.time(), holdoff=node.settings.failover_holdoff)
    print(json.dumps(report, indent=2) if as_json else as_text(report))
    return 0 if any(n["role"] == "primary" and n["healthy"] for n in report["nodes"]) else 1


def _primary_last(node: Node, cluster: ClusterView, peers: Sequence[Peer]) -> tuple[Peer, ...]:
    """Read the primary again after the others: what they received meanwhile must not look errant."""
    name = cluster.record.primary_name if cluster.record else None
    again = {i.name: read_peer(node, i) for i in cluster.of("node") if i.name == name}
    return tuple(again.get(peer.name, peer) for peer in peers)


def describe(cluster: ClusterView, peers: Sequence[Peer], *, now: float, holdoff: float) -> dict[str, Any]:
    """Return the report as plain values: `cluster`, `nodes`, `last_snapshot`. Pure. `now`, `holdoff` in seconds."""
    record = cluster.record
    primary = next(
        (p.state for p in peers if record and p.state and p.state.server_uuid == record.primary), None
    )
    names = {p.state.server_uuid: p.name for p in peers if p.state is not None}
    return {
        "cluster": None
        if record is None
        else {
            "id": record.id,
            "state": record.state,
            "durability": record.durability,
            "epoch": record.epoch,
            "version": record.version,
            "primary": record.primary_name,
            "reason": record.reason,
            "members": [names.get(m, m) for m in record.members],
            "history": list(record.history),
            "paused": cluster.paused,
            # For so long a primary that serves is not replaced, whatever Consul says of it.
            "holdoff_s": max(0, round(record.at + holdoff - now)) if record.epoch > 1 else 0,
            "lock_held": cluster.lock_session is not None,
        },
        "nodes": [_node(cluster, peer, primary) for peer in sorted(peers, key=lambda p: p.name)],
        "last_snapshot": _snapshot(cluster, now),
    }


def _node(cluster: ClusterView, peer: Peer, primary: ServerState | None) -> dict[str, Any]:
    state, record = peer.state, cluster.record
    shown = _shown(cluster, peer.name)
    role = shown.service if shown is not None else "unassigned"
    source = state.replication if state else None
    errant = (state.executed - primary.executed) if state and primary else GtidSet.parse("")
    is_primary = record is not None and state is not None and state.server_uuid == record.primary
    return {
        "node": f"mysql-{peer.name}",
        "role": role,
        "address": f"{peer.address}:{peer.port}",
        "healthy": shown is not None and shown.passing,
        "note": shown.note if shown is not None else _last_word(cluster, peer.name),
        "answers": state is not None,
        "error": peer.error,
        "server_uuid": state.server_uuid if state else None,
        "version": state.version if state else None,
        "capabilities": asdict(state.capabilities) if state else None,
        "open": "writes" if state and state.serves else "reads" if state and not state.offline_mode else "no",
        "replication": _replication(source, is_primary=is_primary),
        "lag_s": source.lag if source else None,
        "gtid_executed": str(state.executed) if state else None,
        "transactions": state.executed.count if state else None,
        "errant": 0 if is_primary else errant.count,
        "errant_gtids": "" if is_primary else str(errant),
    }


def _shown(cluster: ClusterView, name: str) -> Instance | None:
    """How a node shows itself; where what it was once still stands beside it, failing, what passes counts."""
    found = [i for i in cluster.of("primary") + cluster.of("replica") if i.name == name]
    return next((i for i in found if i.passing), found[-1] if found else None)


def _last_word(cluster: ClusterView, name: str) -> str:
    """Why a node has no role: the last line of its health, which its `-node` check keeps."""
    printed = next((i.note for i in cluster.of("node") if i.name == name), "").strip()
    return LOG_PREFIX.sub("", printed.rpartition("\n")[2])


def _replication(source: Any, *, is_primary: bool) -> str:
    if is_primary or source is None:
        return "-"
    if source.io_running == "Yes" and source.sql_running:
        return "running"
    problem = source.sql_error or source.io_error
    threads = f"io {source.io_running.lower()}, sql {'yes' if source.sql_running else 'no'}"
    return f"{threads}: {problem}" if problem else threads


def _snapshot(cluster: ClusterView, now: float) -> dict[str, Any] | None:
    last = cluster.last_snapshot
    if last is None:
        return None
    return {"id": last.id, "size_bytes": last.size, "age_s": round(now - last.at), "gtid": last.gtid}


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report as people read it. Pure."""
    rows = [tuple(_cell(n[c]) for c in COLUMNS) for n in report["nodes"]]
    history = [f"promoted {line}" for line in (report["cluster"] or {}).get("history", [])[-3:]]
    notes = [f"{n['node']}: {n['note'] or n['error']}" for n in report["nodes"] if not n["healthy"]]
    return "\n".join(
        [
            _headline(report["cluster"]),
            table(COLUMNS, rows),
            *notes,
            *_series(report["nodes"]),
            *_lacking(report["nodes"]),
            *history,
            _snapshot_line(report["last_snapshot"]),
        ]
    )


def _series(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line on the servers of a cluster in which they are not all of one series; none where they are."""
    kinds: dict[str, list[str]] = {}
    for node in nodes:
        if node["version"] is not None:
            kinds.setdefault(series_name(node["version"]), []).append(node["node"])
    parts = [f"{kind} ({', '.join(names)})" for kind, names in sorted(kinds.items())]
    return [f"MySQL of {len(kinds)} series: {', '.join(parts)}"] if len(kinds) > 1 else []


def _lacking(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each kind of server that lacks something of what this project can use; none for one with all."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        missing = ", ".join(name for name, there in (node["capabilities"] or {}).items() if not there)
        if missing:
            kinds.setdefault((node["version"], missing), []).append(node["node"])
    return [f"MySQL {v} ({', '.join(names)}) lacks {missing}" for (v, missing), names in kinds.items()]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _headline(cluster: Mapping[str, Any] | None) -> str:
    if cluster is None:
        return "no cluster record in Consul"
    held = "" if cluster["lock_held"] else ", PRIMARY_KEY is free"
    members = (
        f", members: {', '.join(cluster['members']) or 'none'}" if cluster["durability"] == "semisync" else ""
    )
    holdoff = f", hold-off {cluster['holdoff_s']} s" if cluster["holdoff_s"] else ""
    paused = f"\npaused {cluster['paused']}" if cluster["paused"] else ""
    return (
        f"cluster {cluster['id']} ({cluster['state']}, {cluster['durability']}): "
        f"{cluster['primary']} is the primary of epoch {cluster['epoch']}{held}{members}{holdoff}{paused}"
    )


def _snapshot_line(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "no snapshot yet"
    return f"last snapshot: {last['id']}, {last['size_bytes']} bytes, {last['age_s']} s old"
