"""supervisord's configuration, from etc/supervisord.conf.tmpl."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from manager.pilot.programs import HANDOVER_SECONDS, STOP_SECONDS
from manager.settings import Settings

TEMPLATE = Path(__file__).resolve().parents[3] / "etc" / "supervisord.conf.tmpl"


def supervisor_config(
    settings: Settings,
    *,
    consul: Sequence[str],
    mysqld: Sequence[str],
    snapshots: Sequence[str],
    handover: Sequence[str],
) -> str:
    """Return the text of supervisord.conf for the four command lines of a node."""
    values = {
        # Said explicitly, because supervisord warns about root otherwise.
        "user": "user = root" if os.geteuid() == 0 else "",
        "run_dir": str(settings.run_dir),
        "stop_seconds": str(HANDOVER_SECONDS + STOP_SECONDS + 5),
        "handover": shlex.join(handover),
        "consul": shlex.join(consul),
        "mysqld": shlex.join(mysqld),
        "snapshots": shlex.join(snapshots),
    }
    # supervisord expands `%` in every value.
    return Template(TEMPLATE.read_text()).substitute(
        {name: text.replace("%", "%%") for name, text in values.items()}
    )
