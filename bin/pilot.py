#!/usr/bin/env python3
"""Start a node with its pilot: ContainerPilot, or a Consul agent under supervisord (PILOT).

pilot.py             what a container runs
pilot.py agent       the node's Consul agent
pilot.py mysqld      pre_start, then mysqld
pilot.py health      the loop that calls health, under ContainerPilot
pilot.py snapshots   the loop that calls snapshot_task
pilot.py handover    waits, and hands a primary's role over when it is stopped, under supervisord
pilot.py stop        hands a primary's role over and stops mysqld, under ContainerPilot
pilot.py metrics     serves the node's metrics, without ContainerPilot's telemetry
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from manager.errors import AutopilotError, ConfigError
from manager.pilot import containerpilot, programs
from manager.pilot.consul import agent_config
from manager.pilot.supervisor import supervisor_config
from manager.settings import Settings, load
from manager.waiting import pause

HERE = Path(__file__).resolve()
MANAGE = [sys.executable, str(HERE.with_name("manage.py"))]
PROGRAMS = ("agent", "mysqld", "health", "snapshots", "handover", "stop", "metrics")


def main(arguments: list[str]) -> int:
    """Run one of the commands above; returns an exit code only where it could not become that program."""
    if arguments and (len(arguments) > 1 or arguments[0] not in PROGRAMS):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        settings = load(os.environ)
        if not arguments:
            start(settings)
        return run(settings, arguments[0])
    except AutopilotError as error:
        print(f"pilot: {error}", file=sys.stderr)
        if arguments:
            pause(programs.START_INTERVAL)  # ContainerPilot starts a program again at once
        return error.exit_code


def run(settings: Settings, program: str) -> int:
    """Run one of the node's programs, as its pilot asks for it, and return its exit code."""
    if program == "agent":
        file = _agent_file(settings)
        return programs.run_agent(settings, [_program("consul"), "agent", f"-config-file={file}"])
    # The pilot passes on what these and their hooks print: no second copy of each line.
    os.environ.pop("AUTOPILOT_LOG", None)
    match program:
        case "mysqld":
            programs.run_mysqld(settings, MANAGE, _program("mysqld", settings.mysql_bindir))
        case "health":
            programs.run_health(settings, MANAGE)
        case "snapshots":
            programs.run_snapshots(settings, MANAGE)
        case "handover":
            return programs.run_handover(settings, MANAGE)
        case "stop":
            return programs.run_stop(settings, MANAGE)
        case _:
            from manager.pilot import exporter

            return exporter.serve(settings)


def start(settings: Settings) -> NoReturn:
    """Write the configuration of agent and pilot into RUN_DIR and become the pilot."""
    run_dir = settings.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / programs.STOPPED).unlink(missing_ok=True)
    _write(run_dir / "pilot.pid", str(os.getpid()))
    # Pilots keep to themselves what their checks print. This process becomes the pilot and keeps its pid, so
    # this is the node's output, and nothing grows inside the node.
    environment = {**os.environ, "PILOT": settings.pilot, "AUTOPILOT_LOG": f"/proc/{os.getpid()}/fd/1"}
    if settings.consul_agent:
        _write(_agent_file(settings), json.dumps(agent_config(settings, MANAGE), indent=2))
    if settings.pilot == "containerpilot":
        environment |= containerpilot.environment(settings, HERE.parent)
        (run_dir / containerpilot.SENT).unlink(missing_ok=True)
        _become("containerpilot", [], environment)
    if not settings.consul_agent:
        raise ConfigError("CONSUL_AGENT: the pilot `consul` is a Consul agent; set CONSUL_AGENT=1")
    config = run_dir / "supervisord.conf"
    own = [sys.executable, str(HERE)]
    wanted = {name: [*own, name] for name in ("agent", "mysqld", "snapshots", "handover", "metrics")}
    _write(config, supervisor_config(settings, wanted))
    _become(_program("supervisord", Path(sys.executable).parent), ["-n", "-c", str(config)], environment)


def _become(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    path = _program(program)
    os.execve(path, [path, *arguments], environment)


def _agent_file(settings: Settings) -> Path:
    return settings.run_dir / "consul.json"


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read: the agent's holds the Consul token."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _program(name: str, directory: Path | None = None) -> str:
    found = shutil.which(name, path=str(directory) if directory else None) or shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is not in PATH")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
