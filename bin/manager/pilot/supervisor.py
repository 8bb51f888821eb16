"""supervisord's configuration, from etc/supervisord.conf.tmpl."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from manager.pilot.programs import HANDOVER_SECONDS, STOP_SECONDS
from manager.settings import Settings

TEMPLATE = Path(__file__).resolve().parents[3] / "etc" / "supervisord.conf.tmpl"


def supervisor_config(settings: Settings, programs: Mapping[str, Sequence[str]]) -> str:
    """Return the text of supervisord.conf; `programs` are the command lines by the names that it has for them."""
    values = {
        # Said explicitly, because supervisord warns about root otherwise.
        "user": "user = root" if os.geteuid() == 0 else "",
        "run_dir": str(settings.run_dir),
        "stop_seconds": str(HANDOVER_SECONDS + STOP_SECONDS + 5),
        **{name: shlex.join(command) for name, command in programs.items()},
    }
    # supervisord expands `%` in every value.
    return Template(TEMPLATE.read_text()).substitute(
        {name: text.replace("%", "%%") for name, text in values.items()}
    )
