"""What a stranger wrote is shown on a terminal and not obeyed: the real commands, in processes of their own."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from rotdata.console import neutral
from rotdata.shards import Manifest
from tests.helpers import Result, assert_refused, run_installed
from tests.rotdata.shards.samples import edit_manifest

ESCAPES = "\x1b[31m\x1b]0;owned\x07 \x9b31m \r\x08 \u202eover \u2066alone"


def assert_nothing_is_obeyed(result: Result) -> None:
    """No character but those that are seen, tabs and ends of lines."""
    for text in (result.out, result.err):
        assert [each for each in text if unicodedata.category(each)[0] == "C" and each not in "\t\n"] == []


def test_a_name_in_a_folder_is_spelt_out(toy_strips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strips"
    shutil.copytree(toy_strips, folder)
    (folder / ESCAPES).touch()
    result = run_installed("rotdata", "verify", folder)
    assert result.code == 4
    assert_nothing_is_obeyed(result)
    assert r"\x1b[31m\x1b]0;owned\x07 \x9b31m \r\x08 \u202eover \u2066alone: not of this folder" in result.out
    as_json = run_installed("rotdata", "verify", folder, "--json")
    assert_nothing_is_obeyed(as_json)
    assert [each["file"] for each in json.loads(as_json.out)["mismatches"]] == [ESCAPES]


def test_an_encoder_s_name_is_spelt_out(toy_embeddings: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    shutil.copytree(toy_embeddings, folder)
    edit_manifest(folder, lambda manifest: (manifest.encoder or {}).update(model=ESCAPES))
    assert (Manifest.load(folder).encoder or {})["model"] == ESCAPES
    result = run_installed("rottrain", "stage1", "--shards", folder, "--model", tiny_folder, "--out", tmp_path / "out")
    assert_refused(result, 1, r"\x1b[31m\x1b]0;owned\x07")
    assert_nothing_is_obeyed(result)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"--{ESCAPES}",),
        (ESCAPES,),
        ("verify", f"--{ESCAPES}"),
        ("verify", "a", ESCAPES),
        ("verify", ESCAPES),
        ("render", "toy", "--out", "x", "--layout", ESCAPES),
        ("render", "toy", "--out", "x", "--cells", ESCAPES),
        ("render", ESCAPES, "--out", "x"),
    ],
    ids=range(8),
)
def test_arguments_are_quoted_as_text(arguments: tuple[str, ...]) -> None:
    result = run_installed("rotdata", *arguments)
    assert result.code in (1, 2)
    assert_nothing_is_obeyed(result)


def test_only_what_can_not_be_seen_is_spelt_out() -> None:
    seen = "a\tb\nc äß 算术 \U0001f44d \u0301 \u200d \xa0"
    assert neutral(seen) == seen
    assert neutral("\x00\x7f\x85\u2028\ud800") == r"\x00\x7f\x85\u2028\ud800"
