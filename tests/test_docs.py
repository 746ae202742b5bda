"""Every page of the documents: lines that can be read side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

WIDTH = 100
FOLDERS = ("docs", "bench", "tests", "reproduce", "fonts", "rotdata", "rottrain")
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *(page for folder in FOLDERS for page in (REPOSITORY / folder).rglob("*.md"))]
)
BEGINNING = re.compile(r"\s*(?:(?:[-*+>]|\d+\.|#+) +)*")
"""What comes before a line's first word, and can't be parted from it."""


def named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def too_long(text: str) -> Iterator[int]:
    """Lines of more than WIDTH characters that could be broken before: tables can't be, nor can addresses."""
    for number, line in enumerate(text.splitlines(), start=1):
        first_word = BEGINNING.match(line).end()  # type: ignore[union-attr]
        if len(line) > WIDTH and not line.startswith("|") and re.search(r"\s", line[first_word : WIDTH + 1]):
            yield number


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_of_a_hundred_characters_at_most(page: Path) -> None:
    assert not [f"{named(page)}:{number}" for number in too_long(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("line", "long"),
    [
        ("a " * 50, False),
        ("a " * 51, True),
        ("- " + "a" * 200, False),
        ("- see " + "a" * 200, True),
        ("| " + "a " * 200, False),
        ("    " + "code " * 30, True),
    ],
)
def test_what_counts_as_a_line_too_long(line: str, long: bool) -> None:
    assert list(too_long(line)) == [1] * long


def test_every_page_is_in_the_site_s_navigation() -> None:
    nav = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.name for page in (REPOSITORY / "docs").iterdir() if page.suffix in {".md", ".ipynb"}}
    listed = re.findall(r"^ +- [^:\n]+: ([\w./-]+\.(?:md|ipynb))$", nav, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert pages <= set(listed)
