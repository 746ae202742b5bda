"""The calls of rotdata's front door make what the commands make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rotdata
from rotdata.errors import OutputOccupied, ShardError, UsageError
from rotdata.runs import pipeline
from tests.helpers import Result, contents, write_jsonl

STYLE = rotdata.StripStyle(cells=6, align_steps=True, align_numbers=True)
RECORDS = [{"question": f"{n}+1?", "cot": f"<<{n}+1={n + 1}>>", "answer": str(n + 1)} for n in range(9)]


def test_a_call_and_its_command_make_the_same_bytes(run_rotdata: Callable[..., Result], tmp_path: Path) -> None:
    rendering = ("--cells", 6, "--align-steps", "--align-numbers", "--limit", 9)
    assert run_rotdata("render", "toy", *rendering, "--out", tmp_path / "strips").code == 0
    assert run_rotdata("embed", tmp_path / "strips", "--out", tmp_path / "shards").code == 0
    rotdata.render_corpus("toy", out=str(tmp_path / "own-strips"), style=STYLE, limit=9)
    rotdata.embed(str(tmp_path / "own-strips"), out=str(tmp_path / "own-shards"))
    assert contents(tmp_path / "own-strips") == contents(tmp_path / "strips")
    assert contents(tmp_path / "own-shards") == contents(tmp_path / "shards")


def test_plain_and_square_styles_default_to_what_the_command_gives_them(
    run_rotdata: Callable[..., Result], tmp_path: Path
) -> None:
    for name, style, options in (
        ("line", rotdata.StripStyle(), ()),
        ("square", rotdata.StripStyle(layout="square", square_px=256), ("--layout", "square", "--square", 256)),
    ):
        assert run_rotdata("render", "toy", *options, "--limit", 4, "--out", tmp_path / name).code == 0
        rotdata.render_corpus("toy", tmp_path / f"own-{name}", style=style, limit=4)
        assert contents(tmp_path / f"own-{name}") == contents(tmp_path / name)


def test_rows_in_memory_make_the_bytes_of_a_file_of_them(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(each, sort_keys=True) + "\n" for each in RECORDS))
    summary = rotdata.render_corpus((each for each in RECORDS), tmp_path / "memory", style=STYLE, rows_per_shard=4)
    rotdata.render_corpus(file, tmp_path / "file", style=STYLE, rows_per_shard=4)
    assert (summary.rows_in, summary.rows_out, summary.shards) == (9, 9, 3)
    assert contents(tmp_path / "memory") == contents(tmp_path / "file")


def test_the_same_rows_resume_and_others_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "strips"
    rotdata.render_corpus(RECORDS, out, style=STYLE, rows_per_shard=4)
    before = contents(out)
    sorted(out.glob("*.parquet"))[1].unlink()
    assert rotdata.render_corpus(iter(RECORDS), out, style=STYLE, rows_per_shard=4).shards_made == 1
    assert contents(out) == before
    with pytest.raises(OutputOccupied, match=r"source\.files\.rows\.jsonl"):
        rotdata.render_corpus([*RECORDS[:-1], RECORDS[0]], out, style=STYLE, rows_per_shard=4)
    made = rotdata.render_corpus(RECORDS[:4], out, style=STYLE, rows_per_shard=4, overwrite=True)
    assert (made.rows_out, made.shards) == (4, 1)


def test_rows_in_memory_become_latents_of_their_own_strips(tmp_path: Path) -> None:
    rotdata.render_corpus(RECORDS, tmp_path / "strips", style=STYLE)
    rotdata.embed(tmp_path / "strips", tmp_path / "shards", dtype="float32", store="float32", device="cpu")
    encoder = rotdata.load_encoder("tiny", dtype="float32", device="cpu")
    found = rotdata.open_shards(tmp_path / "shards")
    assert [row.cot for row in found] == [each["cot"] for each in RECORDS]
    for row in found:
        [latents_KD] = encoder.encode([rotdata.render(row.cot, STYLE)])
        np.testing.assert_allclose(row.latents_KD, latents_KD, rtol=1e-3, atol=1e-3)


def test_embedding_goes_on_with_what_an_earlier_call_has_chosen(tmp_path: Path) -> None:
    rotdata.render_corpus(RECORDS, tmp_path / "strips", style=STYLE, rows_per_shard=4)
    out = tmp_path / "shards"
    rotdata.embed(tmp_path / "strips", out, dtype="float32", patches_per_call=64, store="int8", pool=2)
    before = contents(out)
    min(out.glob("*.parquet")).unlink()
    assert rotdata.embed(tmp_path / "strips", out, store="int8", pool=2).shards_made == 1
    assert contents(out) == before
    chosen = pipeline.chosen(out)
    assert (chosen.dtype, chosen.patches_per_call) == ("float32", 64)


@pytest.mark.parametrize("kind", [str, Path])
def test_shards_are_opened_and_verified_by_name_or_path(toy_embeddings: Path, kind: Any) -> None:
    assert len(rotdata.open_shards(kind(toy_embeddings))) == 10
    assert rotdata.verify(kind(toy_embeddings))[1] == []


def test_what_are_no_embeddings_is_refused(toy_strips: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="holds strips, not embeddings"):
        rotdata.open_shards(toy_strips)
    with pytest.raises(UsageError, match="neither a folder here nor a dataset of the Hub"):
        rotdata.open_shards(tmp_path / "absent")


def test_rows_in_memory_are_asked_with_other_numbers_as_the_command_asks_a_file(
    run_rotdata: Callable[..., Result], tmp_path: Path
) -> None:
    rows = [
        {"question": f"Ann had 15 {each}, and ate 7.", "cot": "<<15-7=8>>", "answer": "8"} for each in ("figs", "nuts")
    ]
    file, out, own = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "own.jsonl"
    made = rotdata.renumber(rows, own, times=3, seed=5)
    assert run_rotdata("renumber", file, "--out", out, "--times", 3, "--seed", 5).code == 0
    assert (made.rows_in, made.rows_out, made.left_out) == (2, 6, {})
    assert own.read_bytes() == out.read_bytes()
    with pytest.raises(rotdata.RotError, match="give both or neither"):
        rotdata.renumber(rows, own, hold_out=0.5)
