"""rotdata render: JSON whose keys are pinned, options that reach the manifest, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rotdata.shards import Manifest
from tests.helpers import Result, assert_refused, contents, write_jsonl
from tests.rotdata.cli.rows import GSM8K, TOY

Run = Callable[..., Result]


def test_render_prints_its_pinned_keys(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--out", tmp_path / "strips", "--json")
    summary = json.loads(result.out)
    assert result.code == 0
    assert {"rows_in", "rows_out", "rows_rejected", "latents", "shards", "seconds"} <= summary.keys()
    assert (summary["rows_in"], summary["rows_out"], summary["rows_rejected"], summary["shards"]) == (10, 10, 0, 3)


def test_characters_without_a_glyph_are_told_on_stderr(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": "\N{CRAB} = 1", "answer": "1"}])
    result = run_rotdata("render", file, "--corpus", "generic", "--out", tmp_path / "out", "--json")
    assert "1 characters in no font: \N{CRAB} U+1F980 (1)" in result.err
    assert json.loads(result.out)["missing"] == {"\N{CRAB}": 1}


CHINESE = {"question": "q", "cot": "数学計算 = 1", "answer": "1"}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), True),
        (("--fallback", "auto"), True),
        (("--fallback", "squares", "--fallback", "mono"), True),
        (("--fallback", "none"), False),
        (("--on-missing", "box"), False),
    ],
)
def test_fallback_fonts_are_named_chosen_or_none(
    run_rotdata: Run, tmp_path: Path, squares: str, options: tuple[str, ...], kept: bool
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [CHINESE])
    result = run_rotdata("render", file, "--out", tmp_path / "out", *options, "--json")
    assert (result.code, json.loads(result.out)["rows_out"]) == (0 if kept else 3, int(kept))
    assert (f"--fallback {squares} would help" in result.err) == (options == ("--fallback", "none"))
    named = [squares, "DejaVu Sans Mono"] if "mono" in options else [squares]
    assert Manifest.load(tmp_path / "out").style["style"].get("fallback") == (named if kept else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fallback", "nosuch"), "unknown font 'nosuch'"),
        (("--fallback", "none", "--fallback", "mono"), "--fallback none stands alone"),
        (("--fallback", "mono", "--on-missing", "box"), "not with box"),
        (("--max-boxes", "2"), "--max-boxes"),
    ],
)
def test_fallback_fonts_that_can_not_be_are_refused(
    run_rotdata: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = run_rotdata("render", "toy", "--limit", 1, "--out", tmp_path / "out", *options)
    assert result.code != 0
    assert message in result.err


@pytest.mark.usefixtures("no_installed_fonts")
def test_where_no_font_has_them_the_package_is_named(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata("render", write_jsonl(tmp_path / "rows.jsonl", [CHINESE]), "--out", tmp_path / "out")
    assert result.code == 3
    assert "for the characters in no font: install a font that has them, fonts-noto-cjk" in result.err
    assert "fonts-noto-cjk" in (tmp_path / "out" / "_rejects.jsonl").read_text()


def test_a_font_that_is_gone_is_named_by_a_fresh_process(run_rotdata: Run, tmp_path: Path, squares: str) -> None:
    out = tmp_path / "out"
    run_rotdata("render", write_jsonl(tmp_path / "rows.jsonl", [CHINESE]), "--out", out)
    run_rotdata("embed", out, "--out", tmp_path / "shards")
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "rotdata", "preview", str(tmp_path / "shards")]
    gone = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert gone.returncode == 2
    assert f"unknown font '{squares}'" in gone.stderr


def test_the_same_command_again_prints_the_same_counts(run_rotdata: Run, tmp_path: Path) -> None:
    first, second = (json.loads(run_rotdata(*TOY, "--out", tmp_path / "out", "--json").out) for _ in range(2))
    assert (first["shards_made"], second["shards_made"]) == (3, 0)
    assert first | {"seconds": 0, "shards_made": 0} == second | {"seconds": 0}


def test_fields_split_and_seed_reach_the_source(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"q": "How many?", "r": "3+4", "a": 7}])
    fields = ("--question-field", "q", "--cot-field", "r", "--answer-field", "a", "--id-field", "i")
    assert (
        run_rotdata("render", file, "--corpus", "generic", "--split", "test", *fields, "--out", tmp_path / "out").code
        == 0
    )
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.split, manifest.source["fields"], manifest.total("rows")) == ("test", ["q", "r", "a", "i"], 1)
    run_rotdata(*TOY, "--seed", 5, "--out", tmp_path / "toy")
    assert Manifest.load(tmp_path / "toy").source["seed"] == 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--font", "dejavu mono", "--font-size", 16), {"font": "DejaVu Sans Mono", "font_size_px": 16}),
        (("--inverted",), {"foreground": 255, "background": 0}),
        (("--foreground", 10, "--background", 200), {"foreground": 10, "background": 200}),
        (("--kerning", "pairs", "--letter-spacing", 1), {"kerning": "pairs", "letter_spacing_px": 1}),
        (("--cells", 3), {"cells": 3, "padding_px": 0, "font": "DejaVu Sans Mono", "font_size_px": 17}),
        (
            ("--cells", 4, "--font", "dejavu", "--font-size", 11),
            {"cells": 4, "font": "DejaVu Sans", "font_size_px": 11},
        ),
        (("--cells", 2, "--padding", 32), {"cells": 2, "padding_px": 32}),
        (("--cells", 6, "--lines", 2), {"cells": 6, "lines": 2, "font_size_px": 9}),
        (("--begin-mark", "<think>", "--end-mark", "</think>"), {"begin_mark": "<think>", "end_mark": "</think>"}),
        (("--layout", "square", "--square", 256), {"layout": "square", "square_px": 256}),
        (("--line-break", " | ", "--on-missing", "box"), {"line_break": " | ", "on_missing": "box"}),
        (("--for", "tiny"), {"height_px": 32}),
        (("--height", 28, "--padding", 8), {"height_px": 28, "padding_px": 8}),
        ((), {"height_px": 32, "padding_px": 4, "font": "DejaVu Sans"}),
    ],
)
def test_every_option_of_style_reaches_the_manifest(
    run_rotdata: Run, tmp_path: Path, options: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    assert run_rotdata(*TOY, "--out", tmp_path / "strips", *options).code == 0
    style = Manifest.load(tmp_path / "strips").style["style"]
    assert {name: style[name] for name in expected} == expected


def test_every_option_of_the_corpus_reaches_the_source(run_rotdata: Run, tmp_path: Path) -> None:
    record = {"problem": "p", "solution": "$\\pi$ [asy]a[/asy] <<1+1=2>> \\boxed{2}"}
    file = write_jsonl(tmp_path / "rows.jsonl", [record])
    options = ("--calc", "strip", "--latex", "unicode", "--asymptote", "drop")
    out = tmp_path / "out"
    assert run_rotdata("render", file, "--out", out, *options).code == 0
    manifest = Manifest.load(out)
    assert manifest.corpus == "math"
    assert {name: manifest.source[name] for name in ("calc", "latex", "asymptote")} == {
        "calc": "strip",
        "latex": "unicode",
        "asymptote": "drop",
    }
    [row] = pq.read_table(next(out.glob("*.parquet"))).to_pylist()
    assert row["cot"] == "π   2"


def test_a_height_that_the_model_does_not_need_is_refused(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--for", "tiny", "--height", 28, "--out", tmp_path / "out")
    assert_refused(result, 2, "--for tiny makes strips 32 px high, --height says 28")


def test_what_a_square_does_not_hold_is_too_long(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--layout", "square", "--square", 128, "--out", tmp_path / "out", "--json")
    summary = json.loads(result.out)
    assert (result.code, summary["rows_rejected"]) == (3, 10)
    assert Manifest.load(tmp_path / "out").settings["max_latents"] == 16
    assert run_rotdata(*TOY, "--layout", "square", "--square", 256, "--out", tmp_path / "larger").code == 0


def test_a_dry_run_counts_and_writes_nothing(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "rows.jsonl", [GSM8K, GSM8K, "broken", {"question": "q", "answer": "\N{CRAB} #### 1"}]
    )
    out = tmp_path / "out"
    result = run_rotdata("render", file, "--out", out, "--rows-per-shard", 3, "--dry-run", "--json")
    assert json.loads(result.out) == {
        "corpus": "gsm8k",
        "split": "train",
        "rows_in": 4,
        "shards": 2,
        "duplicates": 1,
        "duplicate_ids": 0,
        "missing": {"\N{CRAB}": 1},
        "substituted": {},
    }
    assert not out.exists()
    shown = run_rotdata("render", file, "--out", out, "--dry-run")
    assert shown.out == f"{out} would hold 1 shards of 4 rows of gsm8k-train\n"
    assert "1 rows repeat an earlier one; they are kept" in shown.err


def test_several_processes_may_draw(run_rotdata: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        assert run_rotdata(*TOY, "--num-proc", number, "--out", tmp_path / str(number)).code == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert_refused(run_rotdata(*TOY, "--num-proc", 0, "--out", tmp_path / "0"), 2, "--num-proc counts processes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--font", "Comic Sans"), "shipped are DejaVu Math TeX Gyre"),
        (("--corpus", "gsm9k"), "unknown corpus 'gsm9k': known are auto, gsm8k"),
        (("--limit", 0), "--limit counts rows to read and is at least 1, got 0"),
        (("--height", 16), "use a smaller --font-size or a greater --height"),
        (("--rows-per-shard", 0), "at least 1"),
        (("--split", "dev"), "has the splits train, validation, test"),
    ],
)
def test_arguments_that_can_not_be_right_exit_2(
    run_rotdata: Run, tmp_path: Path, arguments: tuple[Any, ...], message: str
) -> None:
    assert_refused(run_rotdata(*TOY, "--out", tmp_path / "out", *arguments), 2, message)
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_exits_2(run_rotdata: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert_refused(run_rotdata(*TOY, "--out", tmp_path), 2, "choose an empty or new folder for --out")
    run_rotdata(*TOY, "--out", tmp_path / "out")
    other = (*TOY, "--padding", 8, "--out", tmp_path / "out")
    assert_refused(run_rotdata(*other), 2, "holds another run")
    assert run_rotdata(*other, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "no file or folder nowhere.jsonl"),
        ("someone/absent", "the Hub does not answer for dataset someone/absent"),
    ],
)
def test_a_source_that_can_not_be_read_exits_1(run_rotdata: Run, tmp_path: Path, source: str, message: str) -> None:
    assert_refused(run_rotdata("render", source, "--corpus", "gsm8k", "--out", tmp_path / "out"), 1, message)


def test_a_missing_field_exits_1_and_names_the_corpus_that_fits(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K])
    result = run_rotdata("render", file, "--corpus", "math", "--out", tmp_path / "out")
    assert_refused(result, 1, "no field 'problem', 'solution'; found question, answer; it reads as --corpus gsm8k")


@pytest.mark.parametrize(("allowed", "code"), [(None, 3), (0.2, 3), (0.25, 0), (1, 0)])
def test_too_many_rejects_exit_3_with_the_json_printed(
    run_rotdata: Run, tmp_path: Path, allowed: float | None, code: int
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K, "{ broken", GSM8K, GSM8K])
    options = () if allowed is None else ("--max-rejects", allowed)
    result = run_rotdata("render", file, "--corpus", "gsm8k", "--out", tmp_path / "out", "--json", *options)
    assert result.code == code
    summary = json.loads(result.out)
    assert (summary["rows_in"], summary["rows_out"], summary["rows_rejected"]) == (4, 3, 1)
    assert f"1 rows rejected (25.0%): reasons in {tmp_path / 'out' / '_rejects.jsonl'}" in result.err


def test_rejects_count_again_when_a_finished_run_is_repeated(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K, "{ broken"])
    assert [run_rotdata("render", file, "--corpus", "gsm8k", "--out", tmp_path / "out").code for _ in range(2)] == [
        3,
        3,
    ]


def test_an_output_that_is_a_file_exits_1(run_rotdata: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(run_rotdata(*TOY, "--out", tmp_path / "file"), 1, "File exists")
