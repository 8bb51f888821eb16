"""The part of ContainerPilot's template language that our file uses; anything else is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_ENV = re.compile(r'env "([A-Z_]+)"')


def render(text: str, environ: Mapping[str, str]) -> str:
    """Return the text with its actions done; ValueError for one that is not `env`, `if env` or `end`.

    An unset variable is an empty text, as in Go's template with ContainerPilot's functions.
    """
    result: list[str] = []
    shown = [True]
    position = 0
    for action in _ACTION.finditer(text):
        if shown[-1]:
            result.append(text[position : action.start()])
        position = action.end()
        words = action.group(1)
        if words == "end":
            if len(shown) == 1:
                raise ValueError("{{ end }} without an {{ if }}")
            shown.pop()
        elif words.startswith("if "):
            shown.append(shown[-1] and bool(_value(words.removeprefix("if "), environ)))
        elif shown[-1]:
            result.append(_value(words, environ))
    if len(shown) != 1:
        raise ValueError("{{ if }} without an {{ end }}")
    return "".join([*result, text[position:]])


def _value(words: str, environ: Mapping[str, str]) -> str:
    found = _ENV.fullmatch(words)
    if found is None:
        raise ValueError(f"unknown action {{{{ {words} }}}}")
    return environ.get(found.group(1), "")
