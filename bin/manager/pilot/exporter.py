"""The node's metrics for Prometheus, where the pilot has no telemetry of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from manager import metrics
from manager.settings import Settings
from manager.waiting import pause

LOG = logging.getLogger(__name__)

RETRY = 10.0


class Collector:
    """What hooks have kept in RUN_DIR, read anew at each scrape; what no hook has said yet is missing."""

    def __init__(self, settings: Settings) -> None:
        self._run_dir = settings.run_dir

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that have a value."""
        values = metrics.read(self._run_dir)
        for metric in metrics.METRICS:
            if metric.name not in values:
                continue
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield family(f"{metrics.PREFIX}{metric.name}", metric.help, value=values[metric.name])


def serve(settings: Settings) -> int:
    """Serve `/metrics` at NODE_ADDRESS and METRICS_PORT until the process ends; 1, after a while, if that is taken."""
    registry = CollectorRegistry()
    registry.register(Collector(settings))
    address, port = settings.node_address, settings.metrics_port
    try:
        _, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        LOG.error("METRICS_PORT: %s:%d cannot be used: %s", address, port, error.strerror)
        pause(RETRY)  # the pilot starts this again at once
        return 1
    thread.join()
    return 0
