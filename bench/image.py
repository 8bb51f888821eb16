"""`make bench-image`: how big the image is, and how long one node takes from `up` to a healthy primary."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.failover import RESULTS
from containers import engine, images
from sandbox.node import SandboxError
from sandbox.packages import PackagesError
from sandbox.processes import wait_for
from tests.e2e.compose import BUILT, Project

START_SECONDS = 120.0


def cold_start(project: Project) -> float:
    """Bring up Consul, the S3 server and one node, on nothing; return the seconds until it is a healthy primary."""
    begin = time.monotonic()
    try:
        project.compose("up", "-d")
        if not wait_for(lambda: project.primary() is not None, START_SECONDS, 0.05):
            project.keep_logs()
            raise SandboxError(f"no healthy primary after {START_SECONDS:.0f} s: see build/")
        took = time.monotonic() - begin
        with project.writing():  # it is one
            pass
    finally:
        project.remove()
    return took


def image_size() -> int:
    """Return the bytes of all of the image's layers."""
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", BUILT]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that this part of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write bench/results/image.json; return 0, or 1 if that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m bench.image", description=__doc__)
    parser.add_argument("--runs", default="", help="how often it is started (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    runs = int(given.runs or 5)
    took: list[float] = []
    try:
        with engine.running(), tempfile.TemporaryDirectory(prefix="autopilot-bench-") as directory:
            project = Project(directory=Path(directory), images=images.ensure(), pilot="consul")
            project.remove()
            project.build()
            size = image_size()
            for number in range(runs):
                took.append(cold_start(project))
                print(f"{number + 1}: {took[-1]:.2f} s", flush=True)
    except (SandboxError, PackagesError, engine.EngineError, images.ImageError, AssertionError) as error:
        print(f"bench-image: {error}", file=sys.stderr)
        return 1
    found = {
        "size_mb": round(size / 1e6),
        "runs": runs,
        "median_s": round(statistics.median(took), 2),
        "p95_s": round(percentile(took, 0.95), 2),
        "max_s": round(max(took), 2),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "image.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
