"""Run a node's containerpilot.json5 as ContainerPilot 3.8 does: what stands in its place where it cannot be had."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from tests.containerpilot import telemetry
from tests.containerpilot.consul import Consul, Service, watch
from tests.containerpilot.events import SHUTDOWN, STARTUP, Bus
from tests.containerpilot.jobs import Runner
from tests.containerpilot.schema import Config, Job, SchemaError, Telemetry, parse
from tests.containerpilot.template import render


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 after a stop, whatever the jobs' were; 1 for a file that is refused."""
    if arguments:
        print(f"containerpilot: not in this driver: {' '.join(arguments)}", file=sys.stderr)
        return 1
    try:
        config = parse(render(Path(os.environ["CONTAINERPILOT"]).read_text(), os.environ))
    except (OSError, KeyError, ValueError, SchemaError) as error:
        print(f"containerpilot: {error}", file=sys.stderr)
        return 1
    if os.getpid() == 1:
        return _supervise(config)
    return run(config)


def _supervise(config: Config) -> int:
    """As PID 1: a worker does the work; this passes on its signals, and reaps whatever is left to it."""
    worker = os.fork()
    if worker == 0:
        os._exit(run(config))
    for what in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(what, lambda number, _: os.kill(worker, number))
    while True:
        pid, _ = os.wait()
        if pid == worker:
            return 0


def run(config: Config) -> int:
    """Run all jobs until SIGTERM and then their stop, or until all are complete; always 0 (measured)."""
    os.environ["CONTAINERPILOT_PID"] = str(os.getpid())
    bus, ended = Bus(), threading.Event()
    consul = Consul(config.consul)
    metrics = telemetry.Metrics(config.telemetry.metrics if config.telemetry is not None else {})
    telemetry.listen(metrics, Path(config.socket))
    if config.telemetry is not None:
        telemetry.serve(metrics, config.telemetry.address, config.telemetry.port)
        threading.Thread(target=_show, args=(consul, config.telemetry, ended), daemon=True).start()
    awaited = {job.source: job.name for job in config.jobs if job.event == "stopping"}
    runners = [Runner(job, bus, _service(consul, job), awaited.get(job.name)) for job in config.jobs]
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    for runner in runners:
        runner.start()
    for name, interval in config.watches.items():
        threading.Thread(target=watch, args=(consul, bus, name, interval, ended), daemon=True).start()
    bus.publish(STARTUP)
    told = False
    while not bus.empty.wait(0.05):
        if stopping.is_set() and not told:
            bus.publish(SHUTDOWN)
            told = True
    ended.set()
    time.sleep(config.stop_timeout)
    for runner in runners:
        if runner.command is not None:
            runner.command.kill()
    return 0


def _show(consul: Consul, shown: Telemetry, ended: threading.Event) -> None:
    """The telemetry is a service of its own, without a check that could fail."""
    address, port, host = shown.address, shown.port, socket.gethostname()
    service = Service(consul, name="containerpilot", host=host, address=address, port=port, ttl=15)
    while not ended.wait(5.0):
        service.heartbeat()
    service.deregister()


def _service(consul: Consul, job: Job) -> Service | None:
    if job.port is None or job.health is None:
        return None
    host, ttl = socket.gethostname(), job.health.ttl
    return Service(consul, name=job.name, host=host, address=job.address, port=job.port, ttl=ttl)
