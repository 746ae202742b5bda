"""Mending a folder from its manifest, and checking it against what would be made today."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rotdata import shards
from rotdata.corpora import Source
from rotdata.encoders import LazyEncoder, Placement
from rotdata.encoders.models import find_model
from rotdata.errors import OutputOccupied, ShardError, ShardMismatch, UsageError
from rotdata.rendering.png import decode_png, encode_png
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline, repair
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import MANIFEST, Manifest
from rotdata.shards.targets import TargetSettings
from tests.helpers import Result, contents, write_jsonl
from tests.rotdata.shards.samples import change_shard

STYLE = StripStyle(font_size_px=16)


def lazy(folder: Path) -> LazyEncoder:
    return LazyEncoder(find_model(str(folder)), Placement())


def damage(folder: Path) -> None:
    """One shard gone, another with a flipped bit."""
    first, second, *_ = sorted(folder.glob("*.parquet"))
    first.unlink()
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    records = [{"q": f"{i}?", "cot": f"{i} + {i} =\n{2 * i}, " * (i % 4 + 1), "answer": f"{2 * i}"} for i in range(24)]
    return write_jsonl(tmp_path / "rows.jsonl", records)


@pytest.fixture
def strips(corpus: Path, tmp_path: Path) -> Path:
    from rotdata.corpora import Fields

    source = Source(location=str(corpus), corpus="generic", split="dev", limit=20, fields=Fields(question="q"))
    out = tmp_path / "strips"
    pipeline.render(source, STYLE, out, rows_per_shard=6, max_latents=12, too_long="truncate")
    return out


def test_strips_are_mended_from_their_corpus(run_rotdata: Callable[..., Result], corpus: Path, strips: Path) -> None:
    whole = contents(strips)
    damage(strips)
    result = run_rotdata("repair", strips, "--from", corpus, "--json")
    assert (result.code, json.loads(result.out)["repaired"]) == (0, 2)
    assert contents(strips) == whole
    assert json.loads(run_rotdata("repair", strips, "--from", corpus, "--json").out)["repaired"] == 0


@pytest.mark.parametrize("toy", ["toy", "toy:7-8"])
def test_toy_strips_are_mended_without_naming_anything(
    run_rotdata: Callable[..., Result], tmp_path: Path, toy: str
) -> None:
    options = ("--limit", 9, "--seed", 3, "--rows-per-shard", 4)
    assert run_rotdata("render", toy, *options, "--out", tmp_path / "s").code == 0
    whole = contents(tmp_path / "s")
    damage(tmp_path / "s")
    assert run_rotdata("repair", tmp_path / "s").code == 0
    assert contents(tmp_path / "s") == whole


@pytest.mark.parametrize(
    "options", [(), ("--store", "int8", "--pool", "2"), ("--max-latents", "3", "--longer", "resample")]
)
def test_embeddings_are_mended_from_their_strips(
    run_rotdata: Callable[..., Result], toy_strips: Path, tiny_folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "embedded"
    made = ("--model", tiny_folder, "--device", "cpu")
    assert run_rotdata("embed", toy_strips, *made, "--out", out, "--patches-per-call", 512, *options).code == 0
    whole = contents(out)
    damage(out)
    assert run_rotdata("verify", out).code == 4
    result = run_rotdata("repair", out, "--from", toy_strips, *made)
    assert (result.code, "2 shards made again" in result.err) == (0, True)
    assert contents(out) == whole


def test_what_can_not_be_mended_is_refused(
    run_rotdata: Callable[..., Result], strips: Path, corpus: Path, tmp_path: Path, toy_embeddings: Path
) -> None:
    with pytest.raises(UsageError, match="made from files .*rows.jsonl.*: name them with --from"):
        repair.repair(strips, None)
    with pytest.raises(UsageError, match="name the folder of their strips with --from"):
        repair.repair(toy_embeddings, None)
    (tmp_path / "other").mkdir()
    other = write_jsonl(tmp_path / "other" / "rows.jsonl", [{"q": "?", "cot": "x", "answer": "y"}])
    with pytest.raises(OutputOccupied, match="differ in source"):
        repair.repair(strips, str(other))
    (strips / MANIFEST).write_text("{}")
    with pytest.raises(ShardError):
        repair.repair(strips, str(corpus))


def test_rows_made_anew_are_those_of_the_folder(
    run_rotdata: Callable[..., Result], strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    assert repair.check_rows(strips, 50).mismatches == []
    for store in ("float16", "float32", "int8"):
        out = tmp_path / store
        settings = EmbedSettings(targets=TargetSettings(store=store, pool=2))  # type: ignore[arg-type]
        pipeline.embed(strips, lazy(tiny_folder), out, settings=settings)
        found = repair.check_rows(out, 7, lazy(tiny_folder))
        assert (found.rows, found.mismatches) == (7, [])
        assert found.largest_error < repair.TOLERANCE[store]
        assert found.largest_error > 0 or store == "float32"  # which is stored as it came
    result = run_rotdata("verify", out, "--deep", 5, "--model", tiny_folder, "--device", "cpu", "--json")
    assert (result.code, json.loads(result.out)["deep"]["rows"]) == (0, 5)
    assert "rows made anew" in run_rotdata("verify", strips, "--deep", 5).out


def test_pixels_that_are_not_of_the_text_are_found(run_rotdata: Callable[..., Result], strips: Path) -> None:
    def invert(table: pa.Table) -> pa.Table:
        images = table.column("image").to_pylist()
        for image in images[:2]:
            image["bytes"] = encode_png(255 - decode_png(image["bytes"]))
        column = table.schema.field("image")
        return table.set_column(4, column, pa.array(images, column.type))

    change_shard(strips, 1, invert)
    assert shards.verify(strips)[1] == []
    result = run_rotdata("verify", strips, "--deep", 20, "--json")
    assert result.code == 4
    problems = [each["problem"] for each in json.loads(result.out)["mismatches"]]
    assert problems == ["its pixels are not those of its text"] * 2


def test_latents_that_are_not_of_the_text_are_found(toy_strips: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    pipeline.embed(toy_strips, lazy(tiny_folder), out)

    def shift(table: pa.Table) -> pa.Table:
        rows = [np.array(row, np.float16) for row in table.column("embedding").to_pylist()]
        rows[0] = rows[0] + np.float16(0.5)
        return table.set_column(6, table.schema.field("embedding"), shards.embedding_column(rows, table.schema))

    change_shard(out, 0, shift)
    assert shards.verify(out)[1] == []
    found = repair.check_rows(out, 10, lazy(tiny_folder))
    assert len(found.mismatches) == 1
    assert "from those encoded anew" in found.mismatches[0].problem


def test_another_tower_or_font_says_nothing_of_a_folder(
    toy_strips: Path, toy_embeddings: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ShardMismatch, match="name the model that made it with --model"):
        repair.check_rows(toy_embeddings, 1, lazy(tiny_folder))
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    manifest: Any = Manifest.load(strips)
    manifest.style = manifest.style | {"sha256": "0" * 64}
    manifest.save(strips)
    with pytest.raises(ShardMismatch, match="check it where it was made"):
        repair.check_rows(strips, 1)
