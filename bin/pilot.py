#!/usr/bin/env python3
"""Start a node: a Consul agent that runs the hooks, mysqld, and the snapshot loop, under supervisord.

pilot.py             what a container runs
pilot.py agent       the Consul agent (run by supervisord)
pilot.py mysqld      pre_start, then mysqld (run by supervisord)
pilot.py snapshots   the loop that calls snapshot_task (run by supervisord)
pilot.py handover    waits, and hands a primary's role over when it is stopped (run by supervisord)
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from manager.errors import AutopilotError, ConfigError
from manager.pilot.consul import agent_config
from manager.pilot.programs import run_agent, run_handover, run_mysqld, run_snapshots
from manager.pilot.supervisor import supervisor_config
from manager.settings import Settings, load

HERE = Path(__file__).resolve()
MANAGE = [sys.executable, str(HERE.with_name("manage.py"))]


def main(arguments: list[str]) -> int:
    """Run one of the commands above; returns an exit code only where it could not become that program."""
    if arguments not in ([], ["agent"], ["mysqld"], ["snapshots"], ["handover"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        settings = load(os.environ)
        if not arguments:
            start(settings)
        if arguments == ["agent"]:
            return run_agent(settings, [_program("consul"), "agent", f"-config-file={_agent_file(settings)}"])
        # supervisord passes on what these two and their hooks print: no second copy of each line.
        os.environ.pop("AUTOPILOT_LOG", None)
        if arguments == ["mysqld"]:
            run_mysqld(settings, MANAGE, _program("mysqld", settings.mysql_bindir))
        if arguments == ["handover"]:
            return run_handover(settings, MANAGE)
        run_snapshots(settings, MANAGE)
    except AutopilotError as error:
        print(f"pilot: {error}", file=sys.stderr)
        return error.exit_code


def start(settings: Settings) -> NoReturn:
    """Write the configuration of agent and supervisord into RUN_DIR and become supervisord."""
    if not settings.consul_agent:
        raise ConfigError("CONSUL_AGENT: this pilot is a Consul agent; set CONSUL_AGENT=1")
    run_dir = settings.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    _write(_agent_file(settings), json.dumps(agent_config(settings, MANAGE), indent=2))
    config = run_dir / "supervisord.conf"
    own = [sys.executable, str(HERE)]
    programs = {
        "consul": [*own, "agent"],
        "mysqld": [*own, "mysqld"],
        "snapshots": [*own, "snapshots"],
        "handover": [*own, "handover"],
    }
    _write(config, supervisor_config(settings, **programs))
    # Consul keeps what its checks print to itself. This process becomes supervisord and keeps its pid,
    # so this is the node's output, and nothing grows inside the node.
    environment = {**os.environ, "AUTOPILOT_LOG": f"/proc/{os.getpid()}/fd/1"}
    supervisord = _program("supervisord", Path(sys.executable).parent)
    os.execve(supervisord, [supervisord, "-n", "-c", str(config)], environment)


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
