"""ContainerPilot's configuration, refused where ContainerPilot refuses it, and where it is known to go wrong.

Sources: its own validation, and what was measured with 3.8.0: unknown keys are errors at every level, names of
advertised jobs have no underscore, `restarts: "unlimited"` does not go with `each`, the first of two jobs that wait
for the stop of a third is forgotten, a check that may take longer than its interval stalls its job.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyjson5

NAME = re.compile(r"[a-z][a-zA-Z0-9\-]+")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
EVENTS = {
    *("exitSuccess", "exitFailed", "stopping", "stopped", "healthy", "unhealthy", "changed"),
    *("enterMaintenance", "exitMaintenance", "startup", "shutdown"),
}


class SchemaError(Exception):
    """The file is not ContainerPilot's, or one of its traps; the text names the place."""


@dataclass(frozen=True)
class Health:
    """A check: its command, and seconds."""

    command: tuple[str, ...]
    interval: int
    ttl: int
    timeout: float
    raw: bool


@dataclass(frozen=True)
class Job:
    """One job; `event` and `source` say what starts it, `each` that every such event does."""

    name: str
    command: tuple[str, ...]
    event: str
    source: str
    each: bool
    timeout: float | None
    unlimited: bool
    raw: bool
    port: int | None
    address: str
    health: Health | None


@dataclass(frozen=True)
class Telemetry:
    """Where the metrics are shown; each has a type and a help text by its full name."""

    port: int
    address: str
    metrics: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Config:
    """A whole file."""

    consul: str
    stop_timeout: int
    socket: str
    jobs: tuple[Job, ...]
    watches: Mapping[str, int]
    telemetry: Telemetry | None


def parse(text: str) -> Config:
    """Return the configuration in a rendered file; SchemaError."""
    try:
        raw = pyjson5.decode(text)
    except pyjson5.Json5Exception as error:
        raise SchemaError(f"not JSON5: {error}") from None
    try:
        return _config(raw)
    except KeyError as missing:
        raise SchemaError(f"{missing} is missing") from None


def _config(raw: Any) -> Config:
    top = _keys(raw, "the file", "consul logging stopTimeout jobs watches telemetry control")
    _keys(top.get("logging", {}), "logging", "level format output")
    jobs = tuple(_job(one) for one in _list(top["jobs"], "jobs"))
    watches = dict(_watch(one) for one in _list(top.get("watches", []), "watches"))
    _check_together(jobs, watches)
    telemetry = _telemetry(top["telemetry"]) if "telemetry" in top else None
    return Config(
        consul=_text(top["consul"], "consul"),
        stop_timeout=_whole(top.get("stopTimeout", 5), "stopTimeout", least=1),
        socket=_text(_keys(top["control"], "control", "socket")["socket"], "control.socket"),
        jobs=jobs,
        watches=watches,
        telemetry=telemetry,
    )


def _telemetry(raw: Any) -> Telemetry:
    telemetry = _keys(raw, "telemetry", "port interfaces tags metrics")
    return Telemetry(
        port=_whole(telemetry["port"], "telemetry.port", least=1),
        address=_address(telemetry["interfaces"], "telemetry"),
        metrics=dict(_metric(one) for one in _list(telemetry["metrics"], "telemetry.metrics")),
    )


def _job(raw: Any) -> Job:
    allowed = "name exec when timeout restarts stopTimeout health port initial_status interfaces tags consul logging"
    job = _keys(raw, "a job", allowed)
    name = _text(job["name"], "job.name")
    where = f"job {name}"
    if "stopTimeout" in job:
        raise SchemaError(f"{where}: stopTimeout of a job is broken in 3.8")
    when = _keys(job.get("when", {}), f"{where}.when", "interval source once each timeout")
    if len({"interval", "once", "each"} & set(when)) > 1:
        raise SchemaError(f"{where}.when: only one of interval, once, each")
    if "interval" in when:
        raise SchemaError(
            f"{where}.when.interval: a run that takes longer blocks the job, and a stop with it"
        )
    event = when.get("once", when.get("each", "startup"))
    if event not in EVENTS:
        raise SchemaError(f"{where}.when: there is no event {event!r}")
    restarts = job.get("restarts", "never")
    if restarts not in ("never", "unlimited"):
        raise SchemaError(f"{where}.restarts: {restarts!r}")
    if restarts == "unlimited" and "each" in when:
        raise SchemaError(f"{where}.restarts: unlimited does not go with each")
    port = _whole(job["port"], f"{where}.port", least=1) if "port" in job else None
    if port is not None and not NAME.fullmatch(name):
        raise SchemaError(f"{where}: the name of an advertised job")
    if port is not None and "health" not in job:
        raise SchemaError(f"{where}.health: must be set if port is")
    command = _command(job["exec"], where) if "exec" in job else ()
    if port is not None and command:
        raise SchemaError(f"{where}: what is advertised has no exec, or a change of role would end a process")
    return Job(
        name=name,
        command=command,
        event=event,
        source=when.get("source", ""),
        each="each" in when,
        timeout=_duration(job["timeout"], f"{where}.timeout") if "timeout" in job else None,
        unlimited=restarts == "unlimited",
        raw=_raw(job, where),
        port=port,
        address=_address(job["interfaces"], where) if port is not None else "",
        health=_health(job["health"], where) if "health" in job else None,
    )


def _health(raw: Any, where: str) -> Health:
    health = _keys(raw, f"{where}.health", "exec interval ttl timeout logging")
    interval = _whole(health["interval"], f"{where}.health.interval", least=1)
    timeout = (
        _duration(health["timeout"], f"{where}.health.timeout") if "timeout" in health else float(interval)
    )
    if timeout > interval:
        raise SchemaError(f"{where}.health: a check that may take longer than its interval stalls the job")
    ttl = _whole(health["ttl"], f"{where}.health.ttl", least=1)
    if ttl <= interval:
        raise SchemaError(f"{where}.health: it would run out between two checks")
    command = _command(health["exec"], f"{where}.health")
    return Health(command, interval, ttl, timeout, _raw(health, f"{where}.health"))


def _watch(raw: Any) -> tuple[str, int]:
    watch = _keys(raw, "a watch", "name interval tag dc")
    name = _text(watch["name"], "watch.name")
    if not NAME.fullmatch(name):
        raise SchemaError(f"watch {name}: the name of a service")
    return name, _whole(watch["interval"], f"watch {name}.interval", least=1)


def _metric(raw: Any) -> tuple[str, tuple[str, str]]:
    metric = _keys(raw, "a metric", "namespace subsystem name help type")
    name = "_".join(_text(metric[part], f"metric.{part}") for part in ("namespace", "subsystem", "name"))
    if metric["type"] not in ("gauge", "counter", "histogram", "summary"):
        raise SchemaError(f"metric {name}: there is no type {metric['type']!r}")
    return name, (metric["type"], _text(metric["help"], f"metric {name}.help"))


def _check_together(jobs: Collection[Job], watches: Collection[str]) -> None:
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise SchemaError("two jobs have one name")
    awaited = [job.source for job in jobs if job.event == "stopping"]
    if len(set(awaited)) != len(awaited):
        raise SchemaError("two jobs wait for the stop of one: the first is forgotten")
    for job in jobs:
        known = [*names, *(f"watch.{name}" for name in watches), ""]
        if job.source not in known:
            raise SchemaError(f"job {job.name}.when.source: there is no {job.source}")
        if job.event in ("stopping", "changed") and job.timeout is None:
            raise SchemaError(f"job {job.name}: without a timeout it can hold up a stop for ever")
        if job.command and job.command[0].endswith(".py") and not job.raw:
            raise SchemaError(f"job {job.name}: a line over 64 KiB breaks a pipe; set logging.raw")


def _keys(raw: Any, where: str, allowed: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise SchemaError(f"{where}: must be an object")
    unknown = set(raw) - set(allowed.split())
    if unknown:
        raise SchemaError(f"{where}: unknown keys {', '.join(sorted(unknown))}")
    return raw


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list):
        raise SchemaError(f"{where}: must be a list")
    return raw


def _text(raw: Any, where: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise SchemaError(f"{where}: must be a text")
    return raw


def _whole(raw: Any, where: str, *, least: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < least:
        raise SchemaError(f"{where}: must be a whole number from {least}")
    return raw


def _duration(raw: Any, where: str) -> float:
    found = DURATION.fullmatch(_text(raw, where))
    if found is None:
        raise SchemaError(f"{where}: {raw!r} is no duration")
    return float(found.group(1)) * SECONDS[found.group(2)]


def _command(raw: Any, where: str) -> tuple[str, ...]:
    if isinstance(raw, str):
        return tuple(raw.split(" "))
    return tuple(_text(word, f"{where}.exec") for word in _list(raw, f"{where}.exec"))


def _raw(owner: Mapping[str, Any], where: str) -> bool:
    return bool(_keys(owner.get("logging", {}), f"{where}.logging", "raw").get("raw", False))


def _address(raw: Any, where: str) -> str:
    names = _list(raw, f"{where}.interfaces")
    if len(names) != 1 or not str(names[0]).startswith("static:"):
        raise SchemaError(f"{where}.interfaces: our file names the address itself")
    return str(names[0]).removeprefix("static:")
