"""Every block of the documents is run by a test that takes it from there, or says why not."""

from __future__ import annotations

import ast
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from tests.documents import ROOT, DocumentError, blocks, claimed, documents, parse, replaced, the_block

LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
EXAMPLE = """\
Text.

<!-- run: tests/unit/test_x.py::test_y -->
```sh
one   # a command
# two
```
"""


# --- The documents ------------------------------------------------------------------------------


def test_every_block_is_run_or_says_why_not() -> None:
    assert len(blocks()) > 20
    for block in blocks():
        assert block.runner or len(block.reason.split()) > 2, f"{block.document}:{block.line}: no real reason"


def test_every_runner_takes_its_block_and_every_taken_block_is_there() -> None:
    taken = {
        f"{path.relative_to(ROOT)}::{name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in takers(path.read_text())
    }
    assert {block.runner for block in blocks() if block.runner} == taken


def takers(text: str) -> set[str]:
    """The functions at the top of a module, or below an `if`, that take the blocks which are theirs."""
    found = set()
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            match call:
                case ast.Call(
                    func=ast.Name(id="claimed" | "the_block"),
                    args=[ast.Name(id="__file__"), ast.Constant(value=str(name))],
                ):
                    assert name == function.name, f"{function.name} takes what belongs to {name}"
                    found.add(name)
    return found


def test_every_link_leads_to_a_file() -> None:
    for path in documents():
        for target in LINK.findall(path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_pictures_are_sound() -> None:
    shown = {
        path.parent / target
        for path in documents()
        for target in LINK.findall(path.read_text())
        if target.endswith(".svg")
    }
    assert ROOT / "docs" / "life.svg" in shown
    for path in shown:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_picture_of_a_life_fits_one_screen_and_needs_nothing() -> None:
    path = ROOT / "docs" / "life.svg"
    root = ElementTree.parse(path).getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert (width, height) <= (1000, 500)
    assert path.stat().st_size < 12_000
    for element in root.iter():
        where = {name: float(element.attrib[name]) for name in ("x", "y") if name in element.attrib}
        assert 0 <= where.get("x", 0) <= width, element.attrib
        assert 0 <= where.get("y", 0) <= height, element.attrib
        assert not any("href" in name for name in element.attrib), "it must not load anything"


def test_the_words_of_the_picture_stay_in_their_columns() -> None:
    edges = (192, 384, 576, 768, 960)
    texts = [one for one in ElementTree.parse(ROOT / "docs" / "life.svg").iter() if one.tag.endswith("}text")]
    assert len(texts) > 20
    for one in texts:
        # A character in the widest of the usual fonts, measured.
        width = {"step": 8.2, "small": 6.2, "role": 7.5, "": 7.2}[one.attrib.get("class", "")]
        length, x = width * len(one.text or ""), float(one.attrib["x"])
        begin = x - length / 2 if one.attrib.get("class") == "role" else x
        assert begin + length <= next(edge for edge in edges if edge > begin), one.text


def test_the_commands_of_a_contributor_are_there() -> None:
    for line in the_block(__file__, "test_the_commands_of_a_contributor_are_there").lines:
        command, *words = line.partition("#")[0].split()
        if command == "make":
            subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
        else:
            assert (ROOT / command).stat().st_mode & 0o100, f"{command} is no program"


# --- The parser ---------------------------------------------------------------------------------


def test_a_block_has_a_place_a_language_and_a_runner() -> None:
    (block,) = parse(EXAMPLE, "a.md")
    assert (block.document, block.line, block.language) == ("a.md", 4, "sh")
    assert (block.runner, block.reason) == ("tests/unit/test_x.py::test_y", "")
    assert block.text == "one   # a command\n# two\n"
    assert block.lines == ["one   # a command"]


def test_a_block_in_a_list_and_one_that_holds_a_fence() -> None:
    text = "* a\n\n  <!-- not run: for a reason -->\n  ````text\n  ```\n    b\n  ````\n"
    (block,) = parse(text, "a.md")
    assert (block.text, block.reason) == ("```\n  b\n", "for a reason")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\none\n```\n", "a.md:1: neither"),
        ("<!-- run: tests/unit/test_x.py::test_y -->\n\n```sh\none\n```\n", "a.md:3: neither"),
        ("<!-- run: by hand -->\n```sh\none\n```\n", "a.md:2: neither"),
        ("<!-- not run: -->\n```sh\none\n```\n", "a.md:2: neither"),
        ("<!-- not run: no -->\n```\none\n```\n", "a.md:2: a block without a language"),
        ("<!-- not run: no -->\n```sh\none\n", "a.md:2: a block without an end"),
        ("~~~sh\none\n~~~\n", "a.md:1: neither"),
        ("Text:\n\n    one\n", "a.md:3: an indented block"),
    ],
)
def test_a_block_that_nobody_can_place_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        parse(text, "a.md")


def test_what_is_taken_or_replaced_must_be_there() -> None:
    nobody = "no"
    with pytest.raises(DocumentError, match=r"no document has a block for tests/unit/test_documents\.py::no"):
        claimed(__file__, nobody)
    assert replaced("a 1, b 1", [("1", "2"), ("b", "c")]) == "a 2, c 2"
    with pytest.raises(DocumentError, match="there is no '3' to replace"):
        replaced("a 1", [("3", "2")])


def test_the_ways_to_take_a_block_are_seen() -> None:
    text = "def a():\n  claimed(__file__, 'a')\nif ROOT:\n  def b():\n    (x,) = [the_block(__file__, 'b').text]\n"
    assert takers(text + "def c():\n  claimed(other, 'c')\n") == {"a", "b"}
    with pytest.raises(AssertionError, match="a takes what belongs to b"):
        takers("def a():\n  claimed(__file__, 'b')\n")
