"""The durable facts about a data directory, as other versions of this project have left them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manager import nodefile
from manager.errors import AutopilotError

WRITTEN = nodefile.NodeFile(origin="restored", cluster_id="cluster-1", ready=True, server="5.7.22")


def change(datadir: Path, **changes: object) -> None:
    """Let another version of this project have written the file; None takes a field out."""
    nodefile.write(datadir, WRITTEN)
    path = datadir / nodefile.STATE_FILE
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert nodefile.read(tmp_path) is None
    nodefile.write(tmp_path, WRITTEN)
    assert nodefile.read(tmp_path) == WRITTEN


def test_a_file_of_a_version_that_knew_less(tmp_path: Path) -> None:
    change(tmp_path, format=None, server=None, snapshot=None)
    assert nodefile.read(tmp_path) == nodefile.NodeFile(
        origin="restored", cluster_id="cluster-1", ready=True, server=""
    )


def test_a_file_of_a_version_that_knows_more(tmp_path: Path) -> None:
    change(tmp_path, unheard_of=[1, 2])
    assert nodefile.read(tmp_path) == WRITTEN


def test_a_file_of_a_newer_format(tmp_path: Path) -> None:
    """It is not called damaged: nobody is to remove it."""
    change(tmp_path, format=2, unheard_of=True)
    with pytest.raises(AutopilotError, match=r"has format 2; this version reads up to 1, use a newer one$"):
        nodefile.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "null", '{"ready": true}', '{"format": "two"}'])
def test_a_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / nodefile.STATE_FILE).write_text(text)
    with pytest.raises(AutopilotError, match="is damaged"):
        nodefile.read(tmp_path)
