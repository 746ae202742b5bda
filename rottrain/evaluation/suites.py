"""The sets of problems that papers report together, and where each is found: on the Hub, or in a folder of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rotdata.corpora import Source
from rotdata.errors import SourceError, UsageError


@dataclass(frozen=True, kw_only=True)
class Test:
    """The problems of one column of a table."""

    __test__ = False  # pytest would take it for one of its own

    title: str
    """What the paper calls it."""
    hub: Source
    file: str
    """What the name of its file begins with, letters and digits alone."""


def _hub(location: str, corpus: str, split: str = "test") -> Source:
    return Source(location=location, corpus=corpus, split=split, need_cot=False)


SUITES: dict[str, tuple[Test, ...]] = {
    "grade-school": (
        Test(title="GSM8k-Aug", hub=_hub("whyNLP/gsm8k-aug", "gsm8k-aug"), file="gsm8k"),
        Test(title="GSM-Hard", hub=_hub("reasoning-machines/gsm-hard", "gsm-hard", "train"), file="gsmhard"),
        Test(title="SVAMP", hub=_hub("ChilleD/SVAMP", "svamp"), file="svamp"),
        Test(title="MultiArith", hub=_hub("ChilleD/MultiArith", "multiarith"), file="multiarith"),
    ),
    "math": (Test(title="MATH", hub=_hub("HuggingFaceH4/MATH-500", "math"), file="math500"),),
}
"""GSM8k-Aug's test questions are GSM8K's. GSM-Hard has one split, which its authors call train."""

_OTHER_SPLIT = re.compile(r"train|valid|dev")


def find_tests(suites: Sequence[str], folder: Path | None) -> tuple[list[Source], list[str]]:
    """The tests of some suites, on the Hub or in a folder, and the titles of those that the folder has no file of.

    Raises UsageError for an unknown suite, SourceError for no folder and for one without any of its files.
    """
    if unknown := [suite for suite in suites if suite not in SUITES]:
        raise UsageError(f"--suite takes {', '.join(SUITES)}, got {unknown[0]!r}")
    tests = [test for suite in dict.fromkeys(suites) for test in SUITES[suite]]
    if folder is None or not tests:
        return [test.hub for test in tests], []
    found = {test.title: _in_folder(test, folder) for test in tests}
    if not any(found.values()):
        raise SourceError(
            f"--data {folder} holds no file of {', '.join(found)}: their names begin with "
            f"{', '.join(test.file for test in tests)}"
        )
    return [source for source in found.values() if source], [title for title, source in found.items() if not source]


def _in_folder(test: Test, folder: Path) -> Source | None:
    """A test's file in a folder, one whose name says "test" first; files of other splits are passed over."""
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder: --data names one with files such as gsm8k_test.jsonl and svamp.json")
    names = {file: re.sub(r"[^a-z0-9]", "", file.name.lower()) for file in sorted(folder.iterdir()) if file.is_file()}
    found = [file for file, name in names.items() if name.startswith(test.file) and not _OTHER_SPLIT.search(name)]
    if not found:
        return None
    file = min(found, key=lambda file: "test" not in names[file])
    return replace(test.hub, location=str(file), corpus="auto", split="test")
