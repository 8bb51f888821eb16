"""A bar chart as SVG, with nothing but text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

COLOURS = ("#1b6ca8", "#b0b7bf", "#dfa04a")
WIDTH, LEFT, RIGHT, TOP = 780, 210, 90, 64
BAR, SPACE, FOOT = 15, 14, 34
LEAST = 0.05


def bars(title: str, groups: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Return horizontal bars on a logarithmic scale: groups of named (median, maximum) in seconds."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((longest for group in groups.values() for _, longest in group.values()), default=1.0)
    decades = [10.0**power for power in range(-1, math.ceil(math.log10(max(most, 1.0))) + 1)]
    scale = (WIDTH - LEFT - RIGHT) / math.log10(decades[-1] / LEAST)

    def x(seconds: float) -> float:
        return LEFT + scale * math.log10(max(seconds, LEAST) / LEAST)

    y = float(TOP)
    drawn = []
    for label, group in groups.items():
        middle = y + len(group) * BAR / 2 + 4
        drawn.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        for name, (median, longest) in group.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            centre = y + BAR / 2
            drawn += [
                f'<rect x="{LEFT}" y="{y + 1:.0f}" width="{x(median) - LEFT:.1f}" height="{BAR - 2}" fill="{colour}"/>',
                f'<line x1="{x(median):.1f}" x2="{x(longest):.1f}" y1="{centre:.1f}" y2="{centre:.1f}" stroke="#444"/>',
                f'<text x="{x(longest) + 5:.1f}" y="{centre + 4:.1f}">{median:.2f}</text>',
            ]
            y += BAR
        y += SPACE
    lines = [
        f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP - 6}" y2="{y:.0f}" stroke="#ddd"/>'
        f'<text x="{x(at):.1f}" y="{y + 16:.0f}" text-anchor="middle">{at:g} s</text>'
        for at in decades
    ]
    legend = []
    for number, name in enumerate(names):
        at = LEFT + 185 * number
        colour = COLOURS[number % len(COLOURS)]
        legend.append(f'<rect x="{at}" y="34" width="12" height="12" fill="{colour}"/>')
        legend.append(f'<text x="{at + 18}" y="45">{escape(name)}</text>')
    height = y + FOOT
    heading = f"{escape(title)} (bar: median, line: longest)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{heading}</text>',
            *legend,
            *lines,
            *drawn,
            "</svg>",
            "",
        ]
    )
