"""What the benchmarks make of what they measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from bench import failover, snapshot
from bench.failover import Measured
from bench.image import percentile
from bench.plot import bars

TIMES = [1.0, 1.1, 1.2, 4.2, 4.3, 9.0]


@pytest.mark.parametrize(
    ("begin", "end", "longest"), [(1.25, 4.25, 3.0), (1.15, 1.16, 0.1), (4.22, 4.25, 0.1), (4.22, 5.0, 4.7)]
)
def test_the_gap_is_the_longest_silence_that_touches_the_fault(
    begin: float, end: float, longest: float
) -> None:
    assert max(failover.gaps(TIMES, begin, end)) == pytest.approx(longest)


def test_medians_and_missing_rows_are_by_fault_and_beside_the_others() -> None:
    ours = [Measured(3.0, 100, 0), Measured(1.0, 50, 1), Measured(2.0, 10, 0), Measured(None, 0, 0)]
    group = [Measured(20.0, 10, 0), Measured(22.0, 10, 0)]
    found = failover.summarise({"ours": {"frozen": ours}, "gr_default": {"frozen": group, "clean_stop": []}})
    assert found == {
        "frozen": {
            "runs": 4,
            "median_s": 2.0,
            "max_s": 3.0,
            "missing_rows": 1,
            "failures": 1,
            "gr_default_runs": 2,
            "gr_default_median_s": 21.0,
            "gr_default_max_s": 22.0,
            "gr_default_missing_rows": 0,
            "gr_default_failures": 0,
        }
    }
    assert "node frozen" in failover.plot(found)


@pytest.mark.parametrize(("part", "value"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.95, 4.0), (1.0, 4.0)])
def test_a_percentile_is_a_value_that_was_measured(part: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], part) == value


def test_the_plot_is_an_svg_with_a_bar_for_each_figure() -> None:
    groups = {
        "node killed": {"ours": (5.0, 8.0), "theirs <3>": (23.3, 23.9)},
        "switchover": {"ours": (0.2, 0.4)},
    }
    root = ElementTree.fromstring(bars("Seconds", groups))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"node killed", "switchover", "ours", "theirs <3>", "5.00", "23.30", "0.20"} <= set(texts)
    widths = [float(element.get("width", "0")) for element in root.iter() if element.tag.endswith("rect")]
    ours, theirs, quick = widths[3:]  # after the background and the legend
    assert theirs > ours > quick > 0


def test_a_ratio_is_to_the_slower_and_the_median_of_the_rounds_with_the_highest_peak() -> None:
    def measured(ours: float, bare: float, client: float, peak: float) -> snapshot.Measured:
        return snapshot.Measured({"ours": ours, "bare": bare, "client": client}, peak)

    puts = [measured(10.0, 9.0, 1.0, 90.0), measured(10.0, 1.0, 7.0, 129.04), measured(10.0, 8.5, 8.0, 80.0)]
    get = measured(2.0, 4.0, 1.0, 70.0)
    rounds = [{"put": put, "get": get} for put in puts]
    found = snapshot.summarise({"local": rounds})
    assert found == {
        "local": {"put_peak_rss_mb": 129.0, "get_peak_rss_mb": 70.0, "put_ratio": 0.85, "get_ratio": 2.0}
    }
    assert snapshot.beyond(found) == ["local: put_peak_rss_mb is 129.0"]
    assert snapshot.beyond({"s3": {"put_ratio": 0.79, "get_ratio": 0.8}}) == ["s3: put_ratio is 0.79"]
    assert snapshot.median_seconds(rounds)["put"] == {"ours": 10.0, "bare": 8.5, "client": 7.0}
