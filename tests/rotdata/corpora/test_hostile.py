"""A hostile corpus through the command line: every row comes out or is rejected, and nothing ends in a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.corpora import CORPORA, Reject, Row, Source, read
from rotdata.corpora.cot_text import Inconvertible
from rotdata.corpora.readers import Unusable
from rotdata.corpora.rows import _treat
from rotdata.runs import pipeline
from rotdata.shards import read_rejects
from tests.helpers import Result, StandInEncoder, write_jsonl
from tests.hostile import ROWS, hostile_lines, write_hostile

Run = Callable[..., Result]

WHOLE = {  # file -> (rows, rejects)
    "bom.jsonl": (60, 0),
    "utf16.jsonl": (60, 0),
    "windows.jsonl": (60, 0),
    "returns.jsonl": (60, 0),
    "cut_utf16.jsonl": (59, 1),
    "latin1.jsonl": (0, 60),
    "whole.jsonl.gz": (60, 0),
    "document.json": (60, 0),
    "wrapped.json": (60, 0),
    "table.csv": (60, 0),
    "utf16.csv": (60, 0),
    "latin1.csv": (0, 60),
    "nul.csv": (60, 0),
    "ragged.csv": (60, 2),
    "tabs.tsv": (60, 0),
    "lines.txt": (30, 30),
    "nameless": (60, 0),
    "plain.parquet": (60, 0),
    "no_text.parquet": (59, 1),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hostile(tmp_path_factory.mktemp("hostile") / "files")


def render(run: Run, file: Path, out: Path, *options: object) -> dict[str, Any]:
    result = run("render", file, "--corpus", "generic", "--out", out, *options, "--json")
    assert "Traceback" not in result.err
    assert result.code in (0, 3), result.err
    summary: dict[str, Any] = json.loads(result.out)
    assert summary["rows_in"] == summary["rows_out"] - summary["rows_added"] + summary["rows_rejected"]
    assert run("verify", out).code == 0
    rejects = read_rejects(out)
    assert len(rejects) == summary["rows_rejected"]
    assert all(reject["reason"] and reject["id"] for reject in rejects)
    return summary


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (("--max-latents", 400), ROWS),
        (("--max-latents", 400, "--too-long", "truncate"), ROWS),
        (("--max-latents", 400, "--too-long", "split"), ROWS),
        (("--layout", "square", "--square", 128, "--max-latents", 64), 300),
        (("--layout", "square", "--square", 128, "--max-latents", 64, "--too-long", "split"), 99),
        (("--cells", 3, "--on-missing", "box"), 300),
        (("--kerning", "pairs", "--letter-spacing", -2, "--padding", 0), 300),
        (("--on-missing", "error", "--latex", "unicode", "--asymptote", "mark"), 300),
        (("--font", "math", "--font-size", 9, "--begin-mark", "<think>"), 300),
    ],
)
def test_rows_in_are_rows_out_and_rejects(
    run_rotdata: Run, files: dict[str, Path], tmp_path: Path, options: tuple[object, ...], limit: int
) -> None:
    out = tmp_path / "out"
    summary = render(run_rotdata, files["hostile.jsonl"], out, "--limit", limit, "--rows-per-shard", 250, *options)
    assert summary["rows_in"] == limit
    assert summary["rows_out"] > limit / 3
    given_cots = {}
    for line in hostile_lines()[:limit]:
        try:
            record = json.loads(line)
            given_cots[record["id"]] = record["cot"] if isinstance(record["cot"], str) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    if "--latex" not in options and "split" not in options:
        rows = [row for file in out.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
        kept = [row for row in rows if row["id"].startswith("row ")]
        assert len(kept) > limit / 3
        assert [row["id"] for row in kept if given_cots[row["id"]] not in (None, row["cot"])] == []
    if "square" not in options:
        embedded = pipeline.embed(out, StandInEncoder(), tmp_path / "embedded")
        assert embedded.rows_out == summary["rows_out"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_any_format_and_encoding_is_read(
    run_rotdata: Run, files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    summary = render(run_rotdata, files[name], tmp_path / "out", "--max-boxes", 1)
    assert (summary["rows_out"], summary["rows_rejected"]) == WHOLE[name]


def test_every_file_is_tried(files: dict[str, Path]) -> None:
    beside = {"hostile.jsonl", "truncated.jsonl.gz", "damaged.parquet", "cut.parquet"}
    assert files.keys() == WHOLE.keys() | beside


def test_a_file_that_breaks_off_keeps_the_rows_before(run_rotdata: Run, files: dict[str, Path], tmp_path: Path) -> None:
    summary = render(run_rotdata, files["truncated.jsonl.gz"], tmp_path / "out")
    assert 0 < summary["rows_out"] < 60
    assert "the file breaks off after line" in read_rejects(tmp_path / "out")[-1]["reason"]


@pytest.mark.parametrize("name", ["cut.parquet", "damaged.parquet"])
def test_a_parquet_file_of_which_nothing_can_be_read_is_an_error(
    run_rotdata: Run, files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    result = run_rotdata("render", files[name], "--out", tmp_path / "out")
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_all_formats_give_the_same_rows(files: dict[str, Path]) -> None:
    names = [
        "bom.jsonl",
        "utf16.jsonl",
        "windows.jsonl",
        "returns.jsonl",
        "whole.jsonl.gz",
        "document.json",
        "plain.parquet",
        "nameless",
    ]
    rows = [list(read(Source(location=str(files[name])))) for name in names]
    assert all(each == rows[0] for each in rows)
    assert len(rows[0]) == 60


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *(
        "id",
        "question",
        "cot",
        "answer",
        "steps",
        "problem",
        "solution",
        "unique_id",
        "line",
        "input",
        "target",
        "code",
    ),
    *("ID", "Body", "Question", "Equation", "Answer", "question_concat", "iIndex", "sQuestion", "lEquations"),
    *("lSolutions", "final_ans"),
]


@pytest.mark.parametrize("corpus", CORPORA)
@given(record=json_values | st.dictionaries(st.sampled_from(FIELDS), json_values | st.text(), max_size=9))
def test_any_json_value_is_a_row_or_a_reject(corpus: str, record: Any) -> None:
    source = Source(location="x", corpus=corpus)
    try:
        row = _treat(CORPORA[corpus](record, source.fields), source)
    except (Unusable, Inconvertible):
        return
    assert isinstance(row, Row)
    assert all(isinstance(text, str) for text in (row.id, row.question, row.cot, row.answer))


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_as_a_chain_of_thought_is_a_row_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, cots: list[str]
) -> None:
    file = tmp_path_factory.mktemp("any") / "rows.jsonl"
    write_jsonl(file, [{"question": "q", "cot": cot, "answer": "7"} for cot in cots])
    found = list(read(Source(location=str(file), corpus="generic")))
    assert len(found) == len(cots)
    for cot, entry in zip(cots, found, strict=True):
        assert isinstance(entry, Reject) if not cot.strip() else isinstance(entry, Reject) or entry.cot == cot
