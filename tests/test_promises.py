"""docs/promises.md: every promise has a test, and the tests that it names are there."""

from __future__ import annotations

import re

from tests.helpers import REPOSITORY

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_promise_names_tests_that_are_there() -> None:
    lines = (REPOSITORY / "docs" / "promises.md").read_text().splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")][1:]
    promises = [row for row in rows if not row[0].strip().startswith("**")]
    assert promises
    assert [row[0] for row in promises if not TEST.search(row[-1])] == []
    named = [found for row in promises for found in TEST.findall(row[-1])]
    assert [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (REPOSITORY / file).read_text()] == []
