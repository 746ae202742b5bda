"""Latents that are pictures of their own: each picture encoded once a run, whatever else a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotdata.encoders import LazyEncoder, Placement
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import latent_pictures
from rotdata.rendering.png import decode_png
from rotdata.runs import embedding, pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import Manifest, read_table
from tests.helpers import StandInEncoder, contents

ALONE = EmbedSettings(context="latent")


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
        image["bytes"] for entry in manifest.entries for image in read_table(strips, entry).column("image").to_pylist()
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
            read_table(folder, Manifest.load(folder).shards[index]) for folder in (tmp_path / "out", toy_alone)
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
