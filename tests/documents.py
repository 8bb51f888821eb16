"""The fenced blocks of the documents, and which test runs each of them.

Directly before every block stands one of these comments, which no reader sees:

    <!-- run: tests/unit/test_setup.py::test_the_documented_file -->    a test, or a fixture, that does what it says
    <!-- not run: it shows what the block above prints -->              why none does

What runs a block gets it by `claimed(__file__, "test_the_documented_file")`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_FENCE = re.compile(r"(\s*)(`{3,}|~{3,})\s*(\S*).*")
_RUN = re.compile(r"<!-- run: (\S+\.py::\w+) -->")
_NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")


class DocumentError(Exception):
    """A document has a block that nobody can place; the text begins with file and line."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: `line` is that of its fence; `runner` is empty where `reason` says why it is not run."""

    document: str
    line: int
    language: str
    text: str
    runner: str = ""
    reason: str = ""

    @property
    def lines(self) -> list[str]:
        """Its lines that do something: no comments, nothing empty."""
        return [line for line in self.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def parse(text: str, document: str) -> list[Block]:
    """Return the blocks of a document in their order; DocumentError. Pure."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.fullmatch(lines[number])
        if opening is None:
            if lines[number].startswith(("    ", "\t")) and (number == 0 or not lines[number - 1].strip()):
                raise DocumentError(f"{document}:{number + 1}: an indented block: fence it, with a language")
            number += 1
            continue
        end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == opening[2]), None)
        if end is None:
            raise DocumentError(f"{document}:{number + 1}: a block without an end")
        found.append(
            _block(document, number, opening, lines[number - 1] if number else "", lines[number:end])
        )
        number = end + 1
    return found


def _block(document: str, number: int, opening: re.Match[str], before: str, lines: list[str]) -> Block:
    where = f"{document}:{number + 1}"
    run, not_run = _RUN.fullmatch(before.strip()), _NOT_RUN.fullmatch(before.strip())
    if run is None and not_run is None:
        raise DocumentError(f"{where}: neither `run: TEST` nor `not run: REASON` directly before this block")
    if not opening[3]:
        raise DocumentError(f"{where}: a block without a language")
    return Block(
        document=document,
        line=number + 1,
        language=opening[3],
        text="".join(f"{line.removeprefix(opening[1])}\n" for line in lines[1:]),
        runner=run[1] if run else "",
        reason=not_run[1] if not_run else "",
    )


def documents() -> list[Path]:
    """Everything that people are given to read."""
    return sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))


@cache
def blocks() -> tuple[Block, ...]:
    """The blocks of all documents; DocumentError."""
    return tuple(
        block for path in documents() for block in parse(path.read_text(), str(path.relative_to(ROOT)))
    )


def claimed(file: str, function: str) -> tuple[Block, ...]:
    """The blocks that this function of this test file runs, in the documents' order; there are some."""
    runner = f"{Path(file).resolve().relative_to(ROOT)}::{function}"
    found = tuple(block for block in blocks() if block.runner == runner)
    if not found:
        raise DocumentError(f"no document has a block for {runner}")
    return found


def the_block(file: str, function: str) -> Block:
    """The one block that this function runs; ValueError if it has more."""
    (block,) = claimed(file, function)
    return block


def replaced(text: str, replacements: Iterable[tuple[str, str]]) -> str:
    """Return a block's text with what is different where it is run; DocumentError if that is not in it."""
    for old, new in replacements:
        if old not in text:
            raise DocumentError(f"there is no {old!r} to replace in: {text}")
        text = text.replace(old, new)
    return text
