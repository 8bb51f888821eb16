"""`make bench-snapshot` with a little data (addresses 127.0.97.1 and up)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import snapshot


def test_it_measures_all_sides_and_leaves_nothing(
    module_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "DIRECTORY", module_directory / "bench")
    arguments = ["--gib", "0.02", "--runs", "1", "--stores", "local", "--output", str(tmp_path)]
    snapshot.main(arguments)  # so small a thing says nothing of throughput
    found = json.loads((tmp_path / "snapshot.json").read_text())
    about = found.pop("about")
    assert set(found) == set(about["median_s"]) == {"local"}
    for figures in found.values():
        assert set(figures) == {"put_peak_rss_mb", "get_peak_rss_mb", "put_ratio", "get_ratio"}
        assert 20 < figures["put_peak_rss_mb"] <= snapshot.RSS_MB
        assert 20 < figures["get_peak_rss_mb"] <= snapshot.RSS_MB
    assert not snapshot.DIRECTORY.exists()
