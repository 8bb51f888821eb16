"""A restore that tells the others, so that nobody removes the snapshot meanwhile."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from manager.errors import ConsulError
from manager.node import Node
from manager.snapshot.manifest import Manifest
from manager.snapshot.restore import restore

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def told(node: Node, snapshot_id: str) -> Iterator[None]:
    """Tell the others, for the time of the block, that a snapshot is being read; without Consul nobody is told."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(node.discovery.restoring(snapshot_id))
        except ConsulError as error:
            LOG.warning("nobody is told that %s is being restored: %s", snapshot_id, error)
        yield


def restore_here(node: Node, snapshot_id: str, target: Path) -> Manifest:
    """Restore into `target` and return the manifest; errors as of `restore`."""
    with told(node, snapshot_id):
        return restore(node.settings, node.store, snapshot_id, target)
