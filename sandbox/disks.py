"""Small disks for nodes, that can be filled (root only): a tmpfs of a given size."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

FILLER = "filler"
BLOCK = 1 << 20


def mount(path: Path, megabytes: int) -> None:
    """Mount an empty file system of that size there, unless one is mounted already."""
    path.mkdir(parents=True, exist_ok=True)
    if not path.is_mount():
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "autopilot", str(path)]
        subprocess.run(command, check=True, capture_output=True)


def unmount_below(directory: Path) -> None:
    """Unmount what is mounted in a directory, also where a process that is about to end still uses it."""
    with open("/proc/mounts") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in points:
        if Path(point).is_relative_to(directory):
            subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)


def fill(path: Path) -> None:
    """Leave no free byte."""
    with open(path / FILLER, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * BLOCK):
            pass


def free(path: Path) -> None:
    """Take away what `fill` has put there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path / FILLER)
