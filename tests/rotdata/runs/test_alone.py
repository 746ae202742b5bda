"""Latents that are pictures of their own: each picture encoded once, and all that is done with shards works."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotdata import shards
from rotdata.corpora import Source
from rotdata.encoders import LazyEncoder, Placement
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import latent_pictures
from rotdata.errors import OutputOccupied, UsageError
from rotdata.rendering.png import decode_png
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import embedding, pipeline, resumable
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import EmbeddingShards, Manifest, read_rejects, read_table
from rotdata.shards.targets import TargetSettings
from tests.helpers import Result, StandInEncoder, assert_refused, contents

ALONE = EmbedSettings(context="latent")


def alone(**targets: Any) -> EmbedSettings:
    """Settings of latents of their own that differ from the defaults in what is stored."""
    return EmbedSettings(targets=TargetSettings(**targets), context="latent")


class Remembering(StandInEncoder):
    """A stand-in that remembers the pictures it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def launch(self, strips: Any) -> Any:
        self.seen += [picture.tobytes() for picture in strips]
        return super().launch(strips)


def different_pictures(strips: Path) -> set[bytes]:
    manifest = Manifest.load(strips)
    pngs = [
        image["bytes"]
        for entry in manifest.entries
        for image in read_table(strips, manifest, entry).column("image").to_pylist()
    ]
    return {picture.tobytes() for png in pngs for picture in latent_pictures(decode_png(png))}


def blank() -> bytes:
    return np.zeros((32, 32), np.uint8).tobytes()


def test_each_different_picture_is_encoded_once_a_run(toy_cells: Path, toy_alone: Path, tmp_path: Path) -> None:
    encoder = Remembering()
    pipeline.embed(toy_cells, encoder, tmp_path / "out", settings=ALONE)
    given = [picture for picture in encoder.seen if picture != blank()]
    assert sorted(given) == sorted(different_pictures(toy_cells))
    assert contents(tmp_path / "out") == contents(toy_alone)
    assert len(set(encoder.calls)) == 1  # calls of one size, whose last ones are filled up


def test_what_no_longer_has_room_is_encoded_again(
    toy_cells: Path, toy_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_BOOK_BYTES", 16 * 4 * 4)  # 16 latents of D = 4
    encoder = Remembering()
    settings = EmbedSettings(context="latent", patches_per_call=32)  # of 8 pictures each
    pipeline.embed(toy_cells, encoder, tmp_path / "out", settings=settings)
    given = [picture for picture in encoder.seen if picture != blank()]
    assert set(given) == different_pictures(toy_cells)
    assert len(given) > len(set(given))
    for index in range(3):
        mine, theirs = (
            read_table(folder, found, found.shards[index])
            for folder in (tmp_path / "out", toy_alone)
            for found in [Manifest.load(folder)]
        )
        assert mine.equals(theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bits_of_a_latent_depend_on_no_other_shard(
    toy_cells: Path, tiny_folder: Path, tmp_path: Path, dtype: Any
) -> None:
    encoder = LazyEncoder(find_model(str(tiny_folder)), Placement(dtype=dtype))
    settings = EmbedSettings(context="latent", patches_per_call=64)
    pipeline.embed(toy_cells, encoder, tmp_path / "out", settings=settings)
    whole = contents(tmp_path / "out")
    for file in sorted((tmp_path / "out").glob("*.parquet"))[:2]:
        file.unlink()  # the shards that had encoded for the last one
        pipeline.embed(toy_cells, encoder, tmp_path / "out", settings=settings)
        assert contents(tmp_path / "out") == whole
    max((tmp_path / "out").glob("*.parquet")).unlink()
    pipeline.embed(toy_cells, encoder, tmp_path / "out", settings=settings)
    assert contents(tmp_path / "out") == whole


OPTIONS = [(), ("--store", "int8"), ("--max-latents", 3, "--longer", "truncate")]


@pytest.mark.parametrize("options", OPTIONS, ids=["float16", "int8", "cut"])
def test_damage_is_found_and_mended_and_latents_are_those_encoded_anew(
    run_rotdata: Callable[..., Result], toy_cells: Path, tiny_folder: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    out, model = tmp_path / "out", ("--model", tiny_folder, "--device", "cpu")
    made = run_rotdata("embed", toy_cells, *model, "--context", "latent", "--out", out, *options)
    assert made.code == 0, made.err
    whole = contents(out)
    checked = json.loads(run_rotdata("verify", out, "--deep", 10, *model, "--json").out)
    assert checked["mismatches"] == []
    assert (checked["deep"]["rows"], 0 <= checked["deep"]["largest_error"] < checked["deep"]["tolerance"]) == (10, True)
    first, second, _ = sorted(out.glob("*.parquet"))
    first.unlink()
    content = second.read_bytes()
    second.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert run_rotdata("verify", out).code == 4
    assert run_rotdata("repair", out, "--from", toy_cells, *model).code == 0
    assert contents(out) == whole


def test_deep_verification_finds_a_latent_that_is_not_its_pictures(
    run_rotdata: Callable[..., Result], toy_cells: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_folder, "--device", "cpu")
    run_rotdata("embed", toy_cells, *model, "--context", "latent", "--out", tmp_path / "latent")
    run_rotdata("embed", toy_cells, *model, "--out", tmp_path / "strip")
    latent, strip = (Manifest.load(tmp_path / context) for context in ("latent", "strip"))
    strip.settings["context"], strip.settings["store"] = "latent", latent.settings["store"]
    for index, entry in strip.shards.items():
        table = read_table(tmp_path / "strip", Manifest.load(tmp_path / "strip"), entry)
        schema = latent.schema
        rows = [np.array(row, "float16") for row in table.column("embedding").to_pylist()]
        place = schema.get_field_index("embedding")
        table = table.set_column(place, schema.field(place), shards.embedding_column(rows, schema)).cast(schema)
        stored = shards.write_shard(tmp_path / "strip", entry.file, table)
        strip.shards[index] = dataclasses.replace(entry, **dataclasses.asdict(stored))
    strip.save(tmp_path / "strip")
    found = run_rotdata("verify", tmp_path / "strip", "--deep", 4, *model)
    assert (found.code, found.out.count("from those encoded anew")) == (4, 4)


def test_parts_merge_into_what_one_run_makes(toy_cells: Path, tiny_folder: Path, tmp_path: Path) -> None:
    encoder = LazyEncoder(find_model(str(tiny_folder)), Placement(dtype="bfloat16"))
    pipeline.embed(toy_cells, encoder, tmp_path / "whole", settings=ALONE)
    for index in (2, 1):
        mode = resumable.Mode(part=(index, 2))
        pipeline.embed(toy_cells, encoder, tmp_path / "parts", settings=ALONE, mode=mode)
    resumable.merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "options", [("--pool", 2), ("--resize", "reference"), ("--max-latents", 3, "--longer", "resample")]
)
def test_what_would_mix_latents_is_refused(
    run_rotdata: Callable[..., Result], toy_cells: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    result = run_rotdata("embed", toy_cells, "--context", "latent", "--out", tmp_path / "out", *options)
    assert_refused(result, 2, "goes with neither --resize, --pool nor --longer resample")
    assert not (tmp_path / "out").exists()


def test_rows_of_too_many_latents_are_rejects_or_cut(toy_cells: Path, toy_alone: Path, tmp_path: Path) -> None:
    counts = [latents for group in EmbeddingShards(toy_alone) for latents in np.diff(group.offsets)]
    most = sorted(counts)[5]
    pipeline.embed(toy_cells, StandInEncoder(), tmp_path / "kept", settings=alone(max_latents=int(most)))
    assert len(read_rejects(tmp_path / "kept")) == sum(count > most for count in counts) > 0
    cut = alone(max_latents=2, longer="truncate")
    pipeline.embed(toy_cells, StandInEncoder(), tmp_path / "cut", settings=cut)
    for mine, theirs in zip(EmbeddingShards(tmp_path / "cut"), EmbeddingShards(toy_alone), strict=True):
        starts = theirs.offsets[:-1]
        np.testing.assert_array_equal(mine.embedding_LD[::2], theirs.embedding_LD[starts])
        np.testing.assert_array_equal(mine.embedding_LD[1::2], theirs.embedding_LD[starts + 1])


def test_eight_bits_are_as_near_as_their_rounding(toy_cells: Path, tiny_folder: Path, tmp_path: Path) -> None:
    encoder = LazyEncoder(find_model(str(tiny_folder)), Placement())
    for store in ("float32", "int8"):
        pipeline.embed(toy_cells, encoder, tmp_path / store, settings=alone(store=store))
    exact, eight = (EmbeddingShards(tmp_path / store) for store in ("float32", "int8"))
    assert 0 < max(entry.rounding for entry in eight.manifest.entries) < 0.02
    for one, other in zip(exact, eight, strict=True):
        largest_L = np.abs(one.embedding_LD).max(axis=1, keepdims=True)
        assert (np.abs(one.embedding_LD - other.embedding_LD) <= largest_L / 127 / 2 * 1.001).all()


def test_strips_of_another_context_are_another_run(toy_cells: Path, toy_alone: Path, tmp_path: Path) -> None:
    pipeline.embed(toy_cells, StandInEncoder(), tmp_path / "out")
    with pytest.raises(OutputOccupied, match="settings.context: latent . None"):
        pipeline.embed(toy_cells, StandInEncoder(), tmp_path / "out", settings=ALONE)
    latent, strip = Manifest.load(toy_alone), Manifest.load(tmp_path / "out")
    assert latent.encoding_fingerprint != strip.encoding_fingerprint


def test_latents_of_several_lines_are_encoded_alone_or_refused(tmp_path: Path) -> None:
    style = StripStyle(cells=4, lines=2)
    pipeline.render(Source(location="toy", corpus="toy", limit=4), style, tmp_path / "strips")
    with pytest.raises(UsageError, match="holds 2 lines of text.*--context latent"):
        pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "out")
    pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "out", settings=ALONE)
    [rows] = EmbeddingShards(tmp_path / "out")
    strip = render(rows.cots[0], style)
    expected_KD = np.concatenate([StandInEncoder().latents(each) for each in latent_pictures(strip.pixels)])
    np.testing.assert_array_equal(rows.embedding_LD[: rows.offsets[1]], expected_KD.astype(np.float16))
