"""A restore that tells the others, so that nobody removes the snapshot meanwhile."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from manager.errors import ConsulError
from manager.node import Node
from manager.snapshot.manifest import Manifest
from manager.snapshot.restore import restore

LOG = logging.getLogger(__name__)


def restore_here(node: Node, snapshot_id: str, target: Path) -> Manifest:
    """Restore into `target` and return the manifest; errors as of `restore`. Without Consul nobody is told."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(node.discovery.restoring(snapshot_id))
        except ConsulError as error:
            LOG.warning("nobody is told that %s is being restored: %s", snapshot_id, error)
        return restore(node.settings, node.store, snapshot_id, target)
