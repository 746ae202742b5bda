"""Runs as a whole: every row accounted for, resumption to the same bytes, and folders that are left alone."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rotdata import shards
from rotdata.corpora import Row, Source, read
from rotdata.encoders import CallTooLarge, LazyEncoder, Placement, load_encoder
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import reference_resize
from rotdata.errors import Interrupted, OutputOccupied, ShardError, ShardMismatch, SourceError, UnknownFont, UsageError
from rotdata.rendering.png import decode_png, encode_png
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline, resumable
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import MANIFEST, REJECTS, EmbeddingShards, Manifest, read_rejects, verify
from rotdata.shards.targets import TargetSettings, quantise, restore, shorten
from tests import workers
from tests.helpers import REPOSITORY, StandInEncoder, contents, storing, write_jsonl

STYLE = StripStyle()
TOY = Source(location="toy", corpus="toy", limit=10)
PLAIN = {"question": "q", "cot": "3+4=7", "answer": "7"}
CRAB = "\N{CRAB}"


class Broken(StandInEncoder):
    """Latents that are not finite, or not in float16, for strips of more than `longest` latents."""

    def __init__(self, value: float, longest: int) -> None:
        super().__init__()
        self._value, self._longest = value, longest

    def latents(self, strip: NDArray[np.uint8]) -> NDArray[np.float32]:
        latents = super().latents(strip)
        if len(latents) > self._longest:
            latents[-1, -1] = self._value
        return latents


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def mixed(tmp_path: Path) -> Source:
    """12 records, of which 5 can't be used, each for another reason."""
    records: list[Any] = [PLAIN | {"id": f"row {index}"} for index in range(12)]
    records[1] = "{ broken"
    records[2] |= {"cot": " "}
    records[5] |= {"cot": "m" * 2000}
    records[6] |= {"cot": f"{CRAB} = 7"}
    records[11] |= {"answer": None}
    return Source(location=str(write_jsonl(tmp_path / "mixed.jsonl", records)), corpus="generic")


def render_toy(out: Path, **options: Any) -> pipeline.Summary:
    return pipeline.render(TOY, STYLE, out, **{"rows_per_shard": 4} | options)


def render_mixed(mixed: Source, out: Path) -> pipeline.Summary:
    return pipeline.render(mixed, StripStyle(on_missing="error"), out, rows_per_shard=4, max_latents=100)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shard files written while the test runs, in order."""
    files: list[str] = []
    write_shard = shards.write_shard

    def note(folder: Path, file: str, table: Any) -> tuple[int, str]:
        files.append(file)
        return write_shard(folder, file, table)

    monkeypatch.setattr(shards, "write_shard", note)
    return files


# Every row is accounted for.


def test_rows_in_are_rows_out_and_rows_rejected(mixed: Source, out: Path) -> None:
    summary = render_mixed(mixed, out)
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected, summary.shards) == (12, 7, 5, 3)
    assert verify(out)[1] == []


def test_rejects_are_listed_in_order_with_their_shard_and_reason(mixed: Source, out: Path) -> None:
    render_mixed(mixed, out)
    rejects = read_rejects(out)
    assert [(reject["shard"], reject["id"]) for reject in rejects] == [
        (0, "generic-train-000001 (line 2)"),
        (0, "generic-train-000002 (line 3)"),
        (1, "row 5"),
        (1, "row 6"),
        (2, "generic-train-000011 (line 12)"),
    ]
    for reject, reason in zip(
        rejects,
        ("malformed JSON", "is empty", "latents, --max-latents is 100", "no glyph for U+1F980", "not text"),
        strict=True,
    ):
        assert reason in reject["reason"]


def test_rows_keep_the_order_of_the_source(mixed: Source, out: Path) -> None:
    render_mixed(mixed, out)
    found = [
        row_id for file in sorted(out.glob("*.parquet")) for row_id in pq.read_table(file).column("id").to_pylist()
    ]
    assert found == [f"row {index}" for index in (0, 3, 4, 7, 8, 9, 10)]


def test_the_summary_counts_what_is_on_disk(out: Path) -> None:
    summary = render_toy(out)
    tables = [pq.read_table(file) for file in sorted(out.glob("*.parquet"))]
    assert [table.num_rows for table in tables] == [4, 4, 2]
    assert summary.latents == sum(sum(table.column("num_latents").to_pylist()) for table in tables)
    assert summary.bytes == sum(file.stat().st_size for file in out.glob("*.parquet"))


def test_strips_on_disk_are_the_strips_rendered(out: Path) -> None:
    render_toy(out)
    rows = [row for row in read(TOY) if isinstance(row, Row)]
    found = [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    for row, expected in zip(found, rows, strict=True):
        strip = render(expected.cot, STYLE)
        np.testing.assert_array_equal(decode_png(row["image"]["bytes"]), strip.pixels)
        assert (row["cot"], row["spans"]) == (expected.cot, strip.spans.tolist())


def test_characters_without_a_glyph_of_their_own_are_reported(tmp_path: Path, out: Path) -> None:
    only_maths = "\N{MATHEMATICAL BOLD CAPITAL A}"
    style = StripStyle(font="DejaVu Sans Mono")
    cots = [f"{CRAB}1", f"2{only_maths}", f"{CRAB}3"]
    file = write_jsonl(tmp_path / "rare.jsonl", [PLAIN | {"cot": cot} for cot in cots])
    summary = pipeline.render(Source(location=str(file), corpus="generic"), style, out, max_boxes=1)
    assert (summary.missing, summary.substituted) == ({CRAB: 2}, {only_maths: 1})
    assert Manifest.load(out).survey["missing"] == {CRAB: 2}


def test_a_row_far_too_long_is_rejected_without_being_drawn(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "long.jsonl", [PLAIN | {"cot": "m" * 1_000_000}])
    monkeypatch.setattr(pipeline.Renderer, "fingerprint", pipeline.renderer(STYLE).fingerprint)  # which draws glyphs
    monkeypatch.setattr(pipeline.Renderer, "render", lambda *_: pytest.fail("it was drawn"))
    summary = pipeline.render(Source(location=str(file), corpus="generic"), STYLE, out)
    assert (summary.rows_out, summary.rows_rejected) == (0, 1)


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_max_latents_is_the_longest_that_passes(tmp_path: Path, out: Path, latents: int) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [PLAIN | {"cot": "m" * count} for count in range(1, 7)])
    sizes = [render("m" * count, STYLE).num_latents for count in range(1, 7)]
    summary = pipeline.render(Source(location=str(file), corpus="generic"), STYLE, out, max_latents=latents)
    assert summary.rows_out == sum(size <= latents for size in sizes)


LONG = " ".join(f"word{number}," for number in range(60)) + "\n" + "m" * 90 + "\N{COMBINING ACUTE ACCENT} end"


@pytest.fixture
def long_rows(tmp_path: Path) -> Source:
    """Three rows, the second far too long for 10 latents."""
    rows = [PLAIN | {"id": str(number), "cot": cot} for number, cot in enumerate(("short", LONG, "3+4=7"))]
    return Source(location=str(write_jsonl(tmp_path / "long.jsonl", rows)), corpus="generic")


@pytest.mark.parametrize("style", [STYLE, StripStyle(layout="square", square_px=128)], ids=["line", "square"])
def test_a_long_row_may_be_split_into_parts_that_make_up_the_whole(
    long_rows: Source, out: Path, style: StripStyle
) -> None:
    limit = 10 if style is STYLE else 16
    summary = pipeline.render(long_rows, style, out, max_latents=limit, too_long="split")
    [file] = out.glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    parts = rows[1:-1]
    assert "".join(row["cot"] for row in parts) == LONG
    assert [row["id"] for row in parts] == [f"1-part{i}of{len(parts)}" for i in range(1, len(parts) + 1)]
    assert max(row["num_latents"] for row in rows) <= limit
    assert all(row["spans"][-1] == len(row["cot"]) for row in rows)
    assert (summary.rows_in, summary.rows_out, summary.rows_added) == (3, len(parts) + 2, len(parts) - 1)
    assert verify(out)[1] == []
    embedded = pipeline.embed(out, StandInEncoder(), out.with_name("embedded")) if style is STYLE else None
    assert embedded is None or embedded.rows_out == len(parts) + 2


def test_a_long_row_may_be_truncated_and_its_spans_tell(long_rows: Source, out: Path) -> None:
    summary = pipeline.render(long_rows, STYLE, out, max_latents=10, too_long="truncate")
    [file] = out.glob("*.parquet")
    row = pq.read_table(file).to_pylist()[1]
    shown = row["spans"][-1]
    assert row["cot"] == LONG
    assert (row["num_latents"], shown < len(LONG)) == (10, True)
    assert render(LONG[: shown + 1], STYLE).num_latents == 11
    np.testing.assert_array_equal(decode_png(row["image"]["bytes"]), render(LONG[:shown], STYLE).pixels)
    assert (summary.rows_out, summary.rows_truncated, summary.rows_rejected) == (3, 1, 0)
    assert verify(out)[1] == []


def test_a_long_row_is_rejected_with_the_remedy_by_default(long_rows: Source, out: Path) -> None:
    assert pipeline.render(long_rows, STYLE, out, max_latents=10).rows_rejected == 1
    assert "--too-long truncate or split would keep it" in read_rejects(out)[0]["reason"]


def test_a_row_of_which_nothing_fits_is_rejected_under_every_policy(tmp_path: Path, out: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [PLAIN])
    style = StripStyle(begin_mark="a long mark that takes a few latents")
    for too_long in ("truncate", "split"):
        summary = pipeline.render(
            Source(location=str(file), corpus="generic"),
            style,
            out,
            max_latents=2,
            too_long=too_long,
            mode=resumable.Mode(overwrite=True),
        )
        assert (summary.rows_out, summary.rows_rejected) == (0, 1)
        assert "not even its first character fits" in read_rejects(out)[0]["reason"]


def test_duplicates_are_kept_and_counted(tmp_path: Path, out: Path) -> None:
    rows = [PLAIN | {"id": row_id} for row_id in ("a", "b", "a")] + [PLAIN | {"id": "a", "cot": "other"}]
    summary = pipeline.render(
        Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic"), STYLE, out
    )
    assert (summary.rows_out, summary.duplicates, summary.duplicate_ids) == (4, 2, 2)


def test_a_corpus_whose_rows_are_all_rejected_leaves_whole_shards(tmp_path: Path, out: Path) -> None:
    summary = render_toy(out, max_latents=1)
    assert (summary.rows_out, summary.rows_rejected, summary.shards) == (0, 10, 3)
    embedded = pipeline.embed(out, StandInEncoder(), tmp_path / "embedded")
    assert (embedded.rows_in, embedded.rows_out, embedded.shards) == (0, 0, 3)
    assert list(EmbeddingShards(tmp_path / "embedded")) == []
    assert verify(out)[1] == verify(tmp_path / "embedded")[1] == []


def test_a_row_of_every_awkward_text_passes_through(tmp_path: Path, out: Path) -> None:
    cots = ["a\x00b", "\u202eabc", "e\u0301" * 50, "\t\r\n-", f"{CRAB}" * 30, "<script>", "\N{N-ARY SUMMATION}" * 9]
    file = write_jsonl(tmp_path / "awkward.jsonl", [PLAIN | {"cot": cot} for cot in cots])
    assert pipeline.render(Source(location=str(file), corpus="generic"), STYLE, out, max_boxes=1).rows_out == len(cots)
    assert pipeline.embed(out, StandInEncoder(), tmp_path / "embedded").rows_out == len(cots)
    [group] = EmbeddingShards(tmp_path / "embedded")
    assert group.cots == cots


@pytest.fixture
def boxy(tmp_path: Path) -> Source:
    """Four rows of ten characters, of which none, one, two and all have no glyph."""
    cots = [CRAB * boxes + "3" * (10 - boxes) for boxes in (0, 1, 2, 10)]
    file = write_jsonl(tmp_path / "boxy.jsonl", [PLAIN | {"id": str(len(cot)), "cot": cot} for cot in cots])
    return Source(location=str(file), corpus="generic")


@pytest.mark.parametrize(("most", "kept"), [(0, 1), (None, 2), (0.1, 2), (0.2, 3), (1, 4)])
def test_a_row_with_a_greater_share_of_boxes_is_rejected(
    boxy: Source, out: Path, most: float | None, kept: int
) -> None:
    summary = pipeline.render(boxy, STYLE, out, max_boxes=most)
    assert (summary.rows_out, summary.rows_rejected) == (kept, 4 - kept)
    reasons = [reject["reason"] for reject in read_rejects(out)]
    assert all("of 10 characters have no glyph (U+1F980), --max-boxes is" in reason for reason in reasons)
    assert verify(out)[1] == []


def test_the_boxes_of_a_row_in_parts_are_those_of_the_whole(tmp_path: Path, out: Path) -> None:
    rows = [PLAIN | {"cot": "word " * 20 + CRAB * 5 + end} for end in ("", CRAB * 20)]
    source = Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic")
    summary = pipeline.render(source, STYLE, out, max_latents=4, too_long="split")
    assert summary.rows_rejected == 1
    [file] = out.glob("*.parquet")
    ids = pq.read_table(file).column("id").to_pylist()
    assert {row_id.partition("-part")[0] for row_id in ids} == {"generic-train-000000"}


def test_the_share_of_boxes_is_a_setting_only_where_there_are_any(boxy: Source, out: Path, tmp_path: Path) -> None:
    render_toy(out)
    assert "max_boxes" not in Manifest.load(out).settings
    pipeline.render(boxy, STYLE, tmp_path / "boxes")
    assert Manifest.load(tmp_path / "boxes").settings["max_boxes"] == 0.1


def test_a_run_from_before_there_was_a_share_of_boxes_goes_on_as_it_began(boxy: Source, out: Path) -> None:
    pipeline.render(boxy, STYLE, out, max_boxes=1)  # as it was always done then
    [file] = out.glob("*.parquet")
    file.unlink()
    assert pipeline.render(boxy, STYLE, out).rows_out == 4
    with pytest.raises(OutputOccupied, match=r"settings.max_boxes: 0.5 \| None"):
        pipeline.render(boxy, STYLE, out, max_boxes=0.5)
    assert pipeline.render(boxy, STYLE, out, mode=resumable.Mode(overwrite=True)).rows_out == 2


def test_a_share_of_boxes_beyond_0_to_1_is_refused(boxy: Source, out: Path) -> None:
    with pytest.raises(UsageError, match="--max-boxes is a share"):
        pipeline.render(boxy, STYLE, out, max_boxes=10)


CHINESE = PLAIN | {"cot": "数学計算＝乙"}


def test_fallback_fonts_are_chosen_by_the_corpus_and_kept(
    squares: str, tmp_path: Path, out: Path, request: pytest.FixtureRequest
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [CHINESE, PLAIN, CHINESE])
    source = Source(location=str(file), corpus="generic")
    summary = pipeline.render(source, STYLE, out, rows_per_shard=1)
    assert (summary.rows_out, summary.missing, summary.substituted["数"]) == (0 + 1, {"＝": 2}, 2)
    assert Manifest.load(out).style["style"]["fallback"] == [squares]
    whole = contents(out)
    for again in ({}, {"style": dataclasses.replace(STYLE, fallback=(squares,))}):
        next(out.glob("*-00000-*.parquet")).unlink()
        pipeline.render(source, again.get("style", STYLE), out, rows_per_shard=1)
        assert contents(out) == whole
    with pytest.raises(OutputOccupied, match="style.fallback: None"):
        pipeline.render(source, STYLE, out, rows_per_shard=1, fallback="none")
    request.getfixturevalue("no_installed_fonts")
    with pytest.raises(UnknownFont, match=f"unknown font '{squares}'"):
        pipeline.render(source, STYLE, out, rows_per_shard=1)


@pytest.mark.usefixtures("squares")
def test_parts_and_processes_choose_the_same_fallback_fonts(tmp_path: Path, out: Path) -> None:
    rows = [PLAIN | {"cot": f"{number}: 数学計算"} for number in range(6)]
    source = Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic")
    pipeline.render(source, STYLE, out, rows_per_shard=2, num_proc=2)
    parts = tmp_path / "parts"
    for part in ((1, 2), (2, 2)):
        pipeline.render(source, STYLE, parts, rows_per_shard=2, mode=resumable.Mode(part=part))
    resumable.merge(parts)
    assert contents(parts) == contents(out)
    assert Manifest.load(out).total("rows") == 6


@pytest.mark.usefixtures("squares")
def test_a_run_from_before_there_were_fallback_fonts_goes_on_without(tmp_path: Path, out: Path) -> None:
    source = Source(location=str(write_jsonl(tmp_path / "rows.jsonl", [CHINESE])), corpus="generic")
    pipeline.render(source, STYLE, out, max_boxes=1, fallback="none")
    whole = contents(out)
    next(out.glob("*.parquet")).unlink()
    pipeline.render(source, STYLE, out)
    assert contents(out) == whole


# Embedding.


def test_embedded_rows_are_the_strips_rows(toy_strips: Path, out: Path) -> None:
    summary = pipeline.embed(toy_strips, StandInEncoder(), out)
    strips, embedded = Manifest.load(toy_strips), Manifest.load(out)
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected, summary.shards) == (10, 10, 0, 3)
    assert [entry.latents for entry in embedded.shards.values()] == [entry.latents for entry in strips.shards.values()]
    assert [entry.file for entry in embedded.shards.values()] == [entry.file for entry in strips.shards.values()]
    assert embedded.source["strips"] == strips.fingerprint
    assert embedded.style == strips.style


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_the_stored_type_is_the_one_asked_for(toy_strips: Path, out: Path, store: Any) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), out, settings=storing(store=store))
    assert {group.embedding_LD.dtype for group in EmbeddingShards(out)} == {np.dtype(store)}


@pytest.mark.parametrize("patches_per_call", [1, 150, 8192])
def test_the_size_of_a_call_does_not_change_the_rows(toy_strips: Path, out: Path, patches_per_call: int) -> None:
    encoder = StandInEncoder()
    pipeline.embed(toy_strips, encoder, out, settings=EmbedSettings(patches_per_call=patches_per_call))
    default = pipeline.embed(toy_strips, StandInEncoder(), out.with_name("default"))
    assert sum(encoder.calls) == default.rows_out == 10
    for mine, theirs in zip(EmbeddingShards(out), EmbeddingShards(out.with_name("default")), strict=True):
        np.testing.assert_array_equal(mine.embedding_LD, theirs.embedding_LD)


@pytest.mark.parametrize(
    ("value", "store", "reason"),
    [
        (np.inf, "float32", "its embedding is not finite"),
        (np.nan, "float16", "its embedding is not finite"),
        (np.nan, "int8", "its embedding is not finite"),
        (70_000, "float16", "its embedding is not finite in float16: --store float32 or int8 can hold it"),
    ],
)
def test_an_embedding_that_is_not_finite_as_stored_is_a_counted_reject(
    toy_strips: Path, out: Path, value: float, store: Any, reason: str
) -> None:
    rows = [row for file in sorted(toy_strips.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    longest = sorted(row["num_latents"] for row in rows)[5]
    broken = [row["id"] for row in rows if row["num_latents"] > longest]
    assert 0 < len(broken) < 10
    summary = pipeline.embed(toy_strips, Broken(value, longest), out, settings=storing(store=store))
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (10, 10 - len(broken), len(broken))
    assert [reject["id"] for reject in read_rejects(out)] == broken
    assert {reject["reason"] for reject in read_rejects(out)} == {reason}
    assert verify(out)[1] == []


def test_rows_may_all_be_rejected(toy_strips: Path, out: Path) -> None:
    summary = pipeline.embed(toy_strips, Broken(np.inf, 0), out)
    assert (summary.rows_out, summary.rows_rejected, summary.shards) == (0, 10, 3)
    assert verify(out)[1] == []


@pytest.fixture(scope="module")
def tiny_tower(tiny_folder: Path) -> Any:
    return load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")


def test_eight_bits_are_restored_within_half_a_step_and_the_error_is_told(
    toy_strips: Path, tiny_tower: Any, tmp_path: Path
) -> None:
    whole = pipeline.embed(toy_strips, tiny_tower, tmp_path / "whole", settings=storing(store="float32"))
    small = pipeline.embed(toy_strips, tiny_tower, tmp_path / "small", settings=storing(store="int8"))
    expected, found = (list(EmbeddingShards(tmp_path / name)) for name in ("whole", "small"))
    error = squared = 0.0
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other.embedding_LD, restore(*quantise(one.embedding_LD)))
        error += float(np.square(one.embedding_LD - other.embedding_LD).sum())
        squared += float(np.square(one.embedding_LD).sum())
    assert whole.rounding == 0
    assert 0 < small.rounding < 0.02
    assert small.rounding == pytest.approx((error / squared) ** 0.5, rel=0.2)  # the worst shard's, not the mean
    assert small.bytes < 0.45 * whole.bytes
    assert verify(tmp_path / "small")[1] == []


@pytest.mark.parametrize(
    "targets",
    [
        TargetSettings(store="float32", pool=3),
        TargetSettings(store="float32", max_latents=5, longer="truncate"),
        TargetSettings(store="float32", max_latents=5, longer="resample"),
        TargetSettings(store="float32", pool=2, max_latents=4, longer="truncate"),
    ],
)
def test_stored_latents_are_those_of_the_settings_and_spans_follow(
    toy_strips: Path, tiny_tower: Any, tmp_path: Path, targets: TargetSettings
) -> None:
    pipeline.embed(toy_strips, tiny_tower, tmp_path / "whole", settings=storing(store="float32"))
    summary = pipeline.embed(toy_strips, tiny_tower, tmp_path / "less", settings=EmbedSettings(targets=targets))
    assert verify(tmp_path / "less")[1] == []
    manifests = [Manifest.load(tmp_path / name) for name in ("whole", "less")]
    assert manifests[0].fingerprint != manifests[1].fingerprint
    together = manifests[0].encoding_fingerprint == manifests[1].encoding_fingerprint
    assert together == manifests[1].latent_is_a_factor == (targets.pool == 1 and targets.longer != "resample")
    for one, other in zip(EmbeddingShards(tmp_path / "whole"), EmbeddingShards(tmp_path / "less"), strict=True):
        for i in range(len(one)):
            spans = np.array(one.spans[i], dtype=np.int32)
            latents, covered = shorten(one.embedding_LD[one.offsets[i] : one.offsets[i + 1]], spans, targets)
            np.testing.assert_allclose(
                other.embedding_LD[other.offsets[i] : other.offsets[i + 1]], latents, rtol=0, atol=1e-6
            )
            assert covered is not None
            assert other.spans[i] == covered.tolist()
    assert summary.latents < Manifest.load(tmp_path / "whole").total("latents")


def test_rows_of_more_latents_than_allowed_are_rejects(toy_strips: Path, out: Path) -> None:
    counts = [row["num_latents"] for file in toy_strips.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    limit = sorted(counts)[4]
    summary = pipeline.embed(toy_strips, StandInEncoder(), out, settings=storing(max_latents=limit))
    assert summary.rows_out == sum(count <= limit for count in counts)
    assert "--longer truncate or resample would keep it" in read_rejects(out)[0]["reason"]


def test_strips_resized_as_by_the_stock_processor_have_its_grid_and_no_spans(
    toy_strips: Path, tiny_folder: Path, tiny_tower: Any, out: Path
) -> None:
    limits = find_model(str(tiny_folder)).resize_limits()
    pipeline.embed(
        toy_strips, tiny_tower, out, settings=EmbedSettings(targets=TargetSettings(store="float32"), resize=limits)
    )
    table = pq.read_table(toy_strips / "toy-train-00000-of-00003.parquet").to_pylist()
    group = next(iter(EmbeddingShards(out)))
    assert group.spans == [None] * len(group)
    resized = reference_resize(decode_png(table[0]["image"]["bytes"]), tiny_tower.geometry, limits)
    assert resized.shape[0] == 64  # the stock processor makes two rows of a short strip
    np.testing.assert_allclose(
        group.embedding_LD[: group.offsets[1]], tiny_tower.encode([resized])[0], rtol=0, atol=1e-5
    )
    assert Manifest.load(out).settings["resize"] == [limits.min_pixels, limits.max_pixels]


def test_a_strip_that_the_stock_processor_refuses_is_a_reject(tmp_path: Path, tiny_folder: Path, out: Path) -> None:
    rows = [PLAIN, PLAIN | {"cot": "m" * 400}]
    pipeline.render(
        Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic"), STYLE, tmp_path / "strips"
    )
    limits = find_model(str(tiny_folder)).resize_limits()
    encoder = load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")
    assert pipeline.embed(tmp_path / "strips", encoder, out, settings=EmbedSettings(resize=limits)).rows_rejected == 1
    assert "over 200 times the other" in read_rejects(out)[0]["reason"]


def test_equal_strips_are_encoded_once(tmp_path: Path, out: Path) -> None:
    rows = [PLAIN | {"cot": cot} for cot in ("3+4=7", "5", "3+4=7", "3+4=7", "5")]
    pipeline.render(
        Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic"), STYLE, tmp_path / "strips"
    )
    encoder = StandInEncoder()
    summary = pipeline.embed(tmp_path / "strips", encoder, out)
    assert (sum(encoder.calls), summary.rows_out) == (2, 5)
    [group] = EmbeddingShards(out)
    first, third = (group.embedding_LD[group.offsets[i] : group.offsets[i + 1]] for i in (0, 2))
    np.testing.assert_array_equal(first, third)


def test_squares_are_embedded_in_reading_order(tiny_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")
    style = StripStyle(layout="square", square_px=256)
    drawn = pipeline.render(TOY, style, tmp_path / "squares")
    made = pipeline.embed(
        tmp_path / "squares",
        encoder,
        tmp_path / "embedded",
        settings=storing(store="float32"),
    )
    assert (made.rows_out, made.latents) == (10, drawn.latents)
    [group] = EmbeddingShards(tmp_path / "embedded")
    expected = encoder.encode([render(group.cots[0], style).pixels])[0]
    assert len(expected) == 64
    np.testing.assert_allclose(group.embedding_LD[:64], expected, rtol=0, atol=1e-5)


def test_strips_of_another_height_are_refused_with_the_remedy(toy_strips: Path, out: Path) -> None:
    with pytest.raises(ShardMismatch, match="are 32 px high, stand-in needs 28: render them with --height 28"):
        pipeline.embed(toy_strips, StandInEncoder(factor_px=28), out)
    assert not out.exists()


def test_an_unfinished_folder_of_strips_is_refused(toy_strips: Path, tmp_path: Path, out: Path) -> None:
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    manifest = Manifest.load(strips)
    del manifest.shards[1]
    manifest.save(strips)
    with pytest.raises(UsageError, match="is no finished folder of strips"):
        pipeline.embed(strips, StandInEncoder(), out)


def test_embeddings_can_not_be_embedded(toy_embeddings: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="is no finished folder of strips"):
        pipeline.embed(toy_embeddings, StandInEncoder(), out)


def test_a_truncated_strip_shard_is_an_error(toy_strips: Path, tmp_path: Path, out: Path) -> None:
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    file = sorted(strips.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ShardError, match=f"{file.name} can't be read"):
        pipeline.embed(strips, StandInEncoder(), out)


def test_strips_are_never_overwritten_by_their_own_embeddings(toy_strips: Path, tmp_path: Path) -> None:
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="--out is the folder of the strips itself"):
            pipeline.embed(strips, StandInEncoder(), strips, mode=resumable.Mode(overwrite=overwrite))
    assert contents(strips) == contents(toy_strips)


def test_the_real_tower_embeds_to_the_same_bytes_twice(toy_strips: Path, tiny_folder: Path, out: Path) -> None:
    encoder = load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")
    pipeline.embed(toy_strips, encoder, out)
    again = out.with_name("again")
    pipeline.embed(toy_strips, encoder, again)
    assert contents(out) == contents(again)
    for group in EmbeddingShards(out):
        for row, cot in enumerate(group.cots):
            latents = group.embedding_LD[group.offsets[row] : group.offsets[row + 1]]
            [expected] = encoder.encode([render(cot, STYLE).pixels])
            np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-3)


# A folder's bytes.


def test_a_folder_holds_nothing_but_manifest_shards_and_rejects(mixed: Source, tmp_path: Path) -> None:
    render_toy(tmp_path / "toy")
    assert set(contents(tmp_path / "toy")) == {
        MANIFEST,
        *(f"toy-train-{index:05d}-of-00003.parquet" for index in range(3)),
    }
    render_mixed(mixed, tmp_path / "mixed")
    assert set(contents(tmp_path / "mixed")) == {
        MANIFEST,
        REJECTS,
        *(f"generic-train-{index:05d}-of-00003.parquet" for index in range(3)),
    }


def test_the_same_run_gives_the_same_bytes_wherever_it_writes(mixed: Source, tmp_path: Path) -> None:
    for name in ("one", "other place"):
        render_mixed(mixed, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other place")


def test_no_path_of_this_machine_is_in_the_folder(mixed: Source, tmp_path: Path, out: Path) -> None:
    render_mixed(mixed, out)
    assert not any(str(tmp_path).encode() in content for content in contents(out).values())


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12))
def test_rows_fall_into_shards_by_their_number(
    tmp_path_factory: pytest.TempPathFactory, rows: int, rows_per_shard: int
) -> None:
    out = tmp_path_factory.mktemp("plan") / "out"
    source = Source(location="toy", corpus="toy", limit=rows)
    summary = pipeline.render(source, STYLE, out, rows_per_shard=rows_per_shard)
    assert summary.shards == -(-rows // rows_per_shard)
    sizes = [entry.rows for _, entry in sorted(Manifest.load(out).shards.items())]
    assert sizes == [min(rows_per_shard, rows - start) for start in range(0, rows, rows_per_shard)]


@given(st.integers(1, 64).flatmap(lambda width: st.binary(min_size=32 * width, max_size=32 * width)))
def test_png_round_trips(content: bytes) -> None:
    pixels = np.frombuffer(content, np.uint8).reshape(-1, 32).T
    np.testing.assert_array_equal(decode_png(encode_png(pixels)), pixels)


# Resumption.


def delete_a_shard(out: Path) -> None:
    sorted(out.glob("*.parquet"))[1].unlink()


def truncate_a_shard(out: Path) -> None:
    file = sorted(out.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:100])


def flip_a_bit(out: Path) -> None:
    file = sorted(out.glob("*.parquet"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def forget_a_shard(out: Path) -> None:
    manifest = Manifest.load(out)
    del manifest.shards[1]
    manifest.save(out)


def leave_half_a_file(out: Path) -> None:
    delete_a_shard(out)
    (out / ".generic-train-00001-of-00003.parquet.tmp").write_bytes(b"half")
    (out / f".{MANIFEST}.tmp").write_bytes(b"half")


DAMAGES: list[Callable[[Path], None]] = [
    delete_a_shard,
    truncate_a_shard,
    flip_a_bit,
    forget_a_shard,
    leave_half_a_file,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_same_run_mends_one_shard_and_gives_the_same_bytes(
    mixed: Source, out: Path, written: list[str], damage: Callable[[Path], None]
) -> None:
    first = render_mixed(mixed, out)
    before = contents(out)
    damage(out)
    written.clear()
    again = render_mixed(mixed, out)
    assert written == ["generic-train-00001-of-00003.parquet"]
    assert contents(out) == before
    assert (again.rows_in, again.rows_out, again.rows_rejected, again.latents, again.shards, again.bytes) == (
        first.rows_in,
        first.rows_out,
        first.rows_rejected,
        first.latents,
        first.shards,
        first.bytes,
    )


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_embedding_again_mends_one_shard_and_gives_the_same_bytes(
    toy_strips: Path, out: Path, written: list[str], damage: Callable[[Path], None]
) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), out)
    before = contents(out)
    damage(out)
    encoder = StandInEncoder()
    written.clear()
    pipeline.embed(toy_strips, encoder, out)
    assert written == ["toy-train-00001-of-00003.parquet"]
    assert sum(encoder.calls) == 4
    assert contents(out) == before


def test_lost_rejects_are_found_again(mixed: Source, out: Path) -> None:
    render_mixed(mixed, out)
    before = contents(out)
    for lost in (None, read_rejects(out)[1:]):
        (out / REJECTS).unlink()
        if lost is not None:
            shards.write_rejects(out, lost)
        render_mixed(mixed, out)
        assert contents(out) == before


def test_a_finished_run_makes_nothing_again(toy_strips: Path, out: Path, written: list[str]) -> None:
    render_toy(out)
    embedded = out.with_name("embedded")
    pipeline.embed(toy_strips, StandInEncoder(), embedded)
    before = contents(out) | contents(embedded)
    written.clear()
    render_toy(out)
    encoder = StandInEncoder()
    pipeline.embed(toy_strips, encoder, embedded)
    assert written == []
    assert encoder.calls == []
    assert contents(out) | contents(embedded) == before


def test_a_run_that_failed_is_resumed(toy_strips: Path, out: Path) -> None:
    def fail(call: int) -> None:
        if call == 1:
            raise MemoryError

    with pytest.raises(MemoryError):
        pipeline.embed(toy_strips, StandInEncoder(before_call=fail), out)
    assert list(Manifest.load(out).shards) == [0]
    encoder = StandInEncoder()
    pipeline.embed(toy_strips, encoder, out)
    assert sum(encoder.calls) == 6
    pipeline.embed(toy_strips, StandInEncoder(), out.with_name("whole"))
    assert contents(out) == contents(out.with_name("whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_after_the_shard_in_hand(toy_strips: Path, out: Path, number: signal.Signals) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def stop(call: int) -> None:
        if call == 1:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match="stopped after 2 of 3 shards; the same command resumes"):
        pipeline.embed(toy_strips, StandInEncoder(before_call=stop), out)
    assert list(Manifest.load(out).shards) == [0, 1]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    pipeline.embed(toy_strips, StandInEncoder(), out)
    pipeline.embed(toy_strips, StandInEncoder(), out.with_name("whole"))
    assert contents(out) == contents(out.with_name("whole"))


def test_a_second_signal_stops_at_once(toy_strips: Path, out: Path) -> None:
    def stop(call: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pipeline.embed(toy_strips, StandInEncoder(before_call=stop), out)
    assert Manifest.load(out).shards == {}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Return once `condition` holds; fail if `process` ends or two minutes pass before that."""
    give_up = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < give_up
        time.sleep(0.01)


HELD = """
import sys
from rotdata.runs import pipeline
from rotdata.cli import main

def held(rows, size, whole=pipeline._batches):
    for index, batch in enumerate(whole(rows, size)):
        if index == 8:
            sys.stdin.read()
        yield batch

pipeline._batches = held
main()
"""
"""rotdata, whose corpus gives the rows of no more than 8 shards before stdin is closed."""
HELD_SOURCE = Source(location="toy", corpus="toy", limit=120)
HELD_COMMAND = (sys.executable, "-c", HELD, "render", "toy", "--limit", "120", "--rows-per-shard", "10", "--out")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stopped_process_resumes_to_the_same_bytes(out: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [*HELD_COMMAND, out], cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for((out / "toy-train-00001-of-00012.parquet").exists, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    finished = len(Manifest.load(out).shards)
    assert 1 <= finished < 12
    pipeline.render(HELD_SOURCE, STYLE, out, rows_per_shard=10)
    pipeline.render(HELD_SOURCE, STYLE, out.with_name("whole"), rows_per_shard=10)
    assert contents(out) == contents(out.with_name("whole"))


# Several processes.


def test_the_number_of_processes_does_not_change_a_byte(mixed: Source, out: Path) -> None:
    style = StripStyle(on_missing="error")
    options: dict[str, Any] = {"rows_per_shard": 2, "max_latents": 100, "too_long": "split"}
    alone = pipeline.render(mixed, style, out, **options)
    together = pipeline.render(mixed, style, out.with_name("together"), num_proc=3, **options)
    assert contents(out) == contents(out.with_name("together"))
    assert dataclasses.replace(alone, seconds=0) == dataclasses.replace(together, seconds=0)


def children_of(process: subprocess.Popen[Any]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_stopped_processes_leave_nothing_running_and_resume_to_the_same_bytes(
    out: Path, number: signal.Signals, code: int
) -> None:
    command = [*HELD_COMMAND, out, "--num-proc", "2"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for((out / "toy-train-00003-of-00012.parquet").exists, process)
        team = children_of(process)
        assert len(team) >= 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    give_up = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in team):
        assert time.monotonic() < give_up, "a worker outlives its parent"
        time.sleep(0.01)
    assert 1 <= len(Manifest.load(out).shards) < 12
    pipeline.render(HELD_SOURCE, STYLE, out, rows_per_shard=10)
    pipeline.render(HELD_SOURCE, STYLE, out.with_name("whole"), rows_per_shard=10)
    assert contents(out) == contents(out.with_name("whole"))


def test_a_worker_that_dies_is_an_error_with_a_remedy() -> None:
    team: Any = resumable.Workers(makers=[workers.die], job=lambda index: index)
    with pytest.raises(resumable.WorkerDied, match="the same command resumes"):
        list(team([0, 1], lambda: False))


def test_what_a_worker_raises_is_raised_here() -> None:
    team: Any = resumable.Workers(makers=[workers.complain, workers.wait_to_be_stopped], job=lambda index: index)
    with pytest.raises(ShardMismatch, match="what a worker has to say"):
        list(team([0, 1], lambda: False))


def test_workers_hear_that_they_are_to_stop_between_shards() -> None:
    found: list[int] = []
    team: Any = resumable.Workers(makers=[workers.wait_to_be_stopped], job=lambda index: index)
    for index, _ in team(list(range(9)), lambda: bool(found)):
        found.append(index)
    assert found == [0]


# Embedding ahead of and behind the tower.


def lazy(folder: Path, threads: int = 1) -> LazyEncoder:
    return LazyEncoder(find_model(str(folder)), Placement(), threads)


def test_processes_that_embed_do_not_change_a_byte(toy_strips: Path, tiny_folder: Path, out: Path) -> None:
    threads = torch.get_num_threads()
    try:
        pipeline.embed(toy_strips, lazy(tiny_folder), out.with_name("alone"))
    finally:
        torch.set_num_threads(threads)
    encoder = lazy(tiny_folder)
    pipeline.embed(toy_strips, encoder, out, team=[lazy(tiny_folder), lazy(tiny_folder)])
    assert contents(out) == contents(out.with_name("alone"))
    assert "loaded" not in vars(encoder)


def test_a_run_with_nothing_to_do_loads_no_tower(toy_strips: Path, tiny_folder: Path, out: Path) -> None:
    first, second = lazy(tiny_folder, threads=torch.get_num_threads()), lazy(tiny_folder)
    made = pipeline.embed(toy_strips, first, out)
    again = pipeline.embed(toy_strips, second, out)
    assert "loaded" in vars(first)
    assert "loaded" not in vars(second)
    assert (made.shards_made, again.shards_made) == (3, 0)
    assert dataclasses.replace(again, seconds=made.seconds, shards_made=3) == made


class Bar:
    """Where a progress bar has stood."""

    stood: ClassVar[list[int]] = []

    def __init__(self, *, total: int, initial: int, **_: Any) -> None:
        self.n = initial
        self.stood[:] = [initial]

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, rows: int) -> None:
        self.n += rows
        self.stood.append(self.n)


@pytest.mark.parametrize("team", [0, 1], ids=["here", "in a process"])
def test_progress_moves_within_a_shard(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, team: int) -> None:
    pipeline.render(Source(location="toy", corpus="toy", limit=12), STYLE, tmp_path / "strips", rows_per_shard=10)
    monkeypatch.setattr(resumable, "tqdm", Bar)
    few = EmbedSettings(patches_per_call=150)
    pipeline.embed(tmp_path / "strips", StandInEncoder(), out, settings=few, team=[StandInEncoder()] * team)
    assert Bar.stood == sorted(Bar.stood)
    assert len([rows for rows in Bar.stood if 0 < rows < 10]) > 3
    assert Bar.stood[-1] == 12


def test_progress_moves_within_a_shard_of_latents_of_their_own(
    toy_cells: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "tqdm", Bar)
    few = EmbedSettings(patches_per_call=32, context="latent")
    pipeline.embed(toy_cells, StandInEncoder(), out, settings=few)
    assert Bar.stood == sorted(Bar.stood)
    assert {1, 2, 3} <= set(Bar.stood)
    assert Bar.stood[-1] == 10


class Cramped(StandInEncoder):
    """Has memory for a few pictures at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Any:
        if len(strips) > self.most:
            raise CallTooLarge("too many")
        return super().launch(strips)


def test_a_call_that_does_not_fit_is_halved_and_the_shard_marked(tmp_path: Path, out: Path) -> None:
    pipeline.render(TOY, STYLE, tmp_path / "strips", rows_per_shard=8)
    encoder = Cramped(3)
    pipeline.embed(tmp_path / "strips", encoder, out)
    pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "roomy")
    assert max(encoder.calls) <= 3
    assert sum(encoder.calls) == 10
    mine, theirs = Manifest.load(out).shards, Manifest.load(tmp_path / "roomy").shards
    assert mine[0].halved > 0
    assert all(entry.halved == 0 for entry in theirs.values())
    assert [entry.sha256 for entry in mine.values()] == [entry.sha256 for entry in theirs.values()]


def test_a_picture_that_does_not_fit_alone_is_an_error(toy_strips: Path, out: Path) -> None:
    with pytest.raises(CallTooLarge):
        pipeline.embed(toy_strips, Cramped(0), out)


def test_a_strip_shard_with_a_flipped_bit_is_not_embedded(toy_strips: Path, tmp_path: Path, out: Path) -> None:
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    flip_a_bit(strips)
    with pytest.raises(ShardError, match="its SHA-256 is not the manifest's"):
        pipeline.embed(strips, StandInEncoder(), out)
    assert list(Manifest.load(out).shards) == [0]


class Flawed(StandInEncoder):
    """Whose second call gives no numbers."""

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Any:
        collect = super().launch(strips)
        factor = np.nan if len(self.calls) == 2 else 1
        return lambda: [latents * factor for latents in collect()]


def test_rejects_may_be_tried_again(toy_strips: Path, out: Path) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), out.with_name("whole"))
    pipeline.embed(toy_strips, Flawed(), out)
    refused = len(read_rejects(out))
    assert refused
    encoder = StandInEncoder()
    assert pipeline.embed(toy_strips, encoder, out).rows_rejected == refused
    assert encoder.calls == []
    assert pipeline.embed(toy_strips, encoder, out, mode=resumable.Mode(retry_rejects=True)).rows_rejected == 0
    assert contents(out) == contents(out.with_name("whole"))


# Folders that are not ours to change.


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"rows_per_shard": 5}, r"plan\.rows_per_shard: 5 \| 4"),
        ({"too_long": "split"}, r"settings\.too_long: split \| reject"),
        ({"max_latents": 50}, r"settings\.max_latents: 50 \| 4096"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_the_difference_named(
    out: Path, options: dict[str, int], difference: str
) -> None:
    render_toy(out)
    before = contents(out)
    with pytest.raises(OutputOccupied, match=rf"holds another run.*{difference}.*choose another --out, or --overwrite"):
        render_toy(out, **options)
    assert contents(out) == before


def test_another_style_or_source_is_another_run(out: Path, toy_strips: Path) -> None:
    render_toy(out)
    with pytest.raises(OutputOccupied, match=r"style\.style\.padding_px: 8 \| 4"):
        pipeline.render(TOY, StripStyle(padding_px=8), out, rows_per_shard=4)
    with pytest.raises(OutputOccupied, match=r"source\.seed: 1 \| 0"):
        pipeline.render(Source(location="toy", corpus="toy", limit=10, seed=1), STYLE, out, rows_per_shard=4)
    with pytest.raises(OutputOccupied, match=r"encoder\.model: stand-in \| None"):
        pipeline.embed(toy_strips, StandInEncoder(), out)


def test_an_edited_corpus_is_another_run(mixed: Source, out: Path) -> None:
    render_mixed(mixed, out)
    file = Path(mixed.location)
    file.write_text(file.read_text().replace("3+4=7", "4+3=7"))
    with pytest.raises(OutputOccupied, match=r"source\.files\.mixed\.jsonl"):
        render_mixed(mixed, out)


def test_overwriting_leaves_what_a_new_folder_would_hold(mixed: Source, out: Path) -> None:
    render_mixed(mixed, out)
    pipeline.render(TOY, STYLE, out, rows_per_shard=4, mode=resumable.Mode(overwrite=True))
    render_toy(out.with_name("new"))
    assert contents(out) == contents(out.with_name("new"))


def test_overwriting_gets_over_a_damaged_manifest(out: Path) -> None:
    render_toy(out)
    before = contents(out)
    (out / MANIFEST).write_text("{ broken")
    with pytest.raises(ShardError):
        render_toy(out)
    render_toy(out, mode=resumable.Mode(overwrite=True))
    assert contents(out) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(out: Path, overwrite: bool) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputOccupied, match=r"holds files but no _manifest\.json: choose an empty or new folder"):
        render_toy(out, mode=resumable.Mode(overwrite=overwrite))
    assert contents(out) == {"thesis.tex": b"years of work"}


def test_a_source_that_can_not_be_read_makes_no_folder(out: Path) -> None:
    with pytest.raises(SourceError):
        pipeline.render(Source(location="nowhere.jsonl", corpus="generic"), STYLE, out)
    assert not out.exists()


@pytest.mark.parametrize("options", [{"rows_per_shard": 0}, {"max_latents": 0}])
def test_plans_of_nothing_are_refused(out: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        render_toy(out, **options)
    assert not out.exists()


# Real corpora.


@pytest.mark.data
def test_every_row_of_gsm8k_renders(rot_data: Path, out: Path) -> None:
    source = Source(location=str(rot_data / "gsm8k_train.jsonl"), corpus="gsm8k")
    summary = pipeline.render(source, STYLE, out)
    assert (summary.rows_in, summary.rows_out + summary.rows_rejected, summary.shards) == (7473, 7473, 8)
    assert summary.rows_rejected == len(read_rejects(out)) < 75
    assert verify(out)[1] == []


@pytest.mark.data
def test_every_row_of_math500_renders_the_longest_too(rot_data: Path, out: Path) -> None:
    source = Source(location=str(rot_data / "math500.jsonl"), corpus="math", split="test")
    summary = pipeline.render(source, STYLE, out)
    assert (summary.rows_in, summary.rows_out, summary.rows_rejected) == (500, 500, 0)
    [file] = out.glob("*.parquet")
    widths = pq.read_table(file, columns=["width"]).column("width").to_pylist()
    assert max(widths) / 32 > 200  # an aspect ratio that the stock processor refuses


@pytest.mark.data
def test_gsm8k_aug_lines_render(rot_data: Path, out: Path) -> None:
    source = Source(location=str(rot_data / "gsm8k_aug_valid.txt"), corpus="gsm8k-aug", split="valid")
    summary = pipeline.render(source, STYLE, out)
    assert summary.rows_in == summary.rows_out + summary.rows_rejected > 0
    assert summary.rows_rejected == len(read_rejects(out))
