"""ContainerPilot's telemetry: `/metrics`, and what `-putmetric` sends over the control socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Metrics:
    """The values by full name: gauges are set, counters added to; what is not configured is dropped."""

    def __init__(self, known: Mapping[str, tuple[str, str]]) -> None:
        self._known = known
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()

    def put(self, name: str, value: float) -> None:
        """Take one value."""
        if name not in self._known:
            return
        with self._lock:
            add = self._values.get(name, 0.0) if self._known[name][0] == "counter" else 0.0
            self._values[name] = add + value

    def text(self) -> str:
        """Return Prometheus' text form; a metric without a value is 0."""
        lines = []
        with self._lock:
            for name, (kind, help_text) in self._known.items():
                lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
                lines.append(f"{name} {self._values.get(name, 0.0)!r}")
        return "\n".join([*lines, ""])


def serve(metrics: Metrics, address: str, port: int) -> None:
    """Serve `/metrics` in the background."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = metrics.text().encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def listen(metrics: Metrics, path: Path) -> None:
    """Take values over the control socket in the background."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for name, value in json.loads(self.rfile.readline()).items():
                metrics.put(name, float(value))
            self.wfile.write(b"ok\n")

    path.unlink(missing_ok=True)
    server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
