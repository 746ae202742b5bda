"""Every family of towers against its own model's image features, on tiny random models built from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import FAMILIES, find_model
from rotdata.encoders.patches import latent_pictures, pack
from rotdata.errors import UnknownModel
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import EmbeddingShards
from rotdata.shards.targets import TargetSettings
from tests.families import BUILT, build

TEXTS = ["<<7+5=12>>", "", "a", "<<7+5=13>>", "Natalia sold 48/2 = 24 clips in May. " * 4, "<<12*3=36>> <<36-1=35>>"]


@pytest.fixture(scope="module", params=BUILT)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """Name, folder and model."""
    model = build(request.param)
    folder = tmp_path_factory.mktemp("families") / request.param
    model.save_pretrained(folder)
    return request.param, folder, model


def pictures(factor: int) -> list[NDArray[np.uint8]]:
    strips = [render(text, StripStyle(height_px=factor, font_size_px=16)).pixels for text in TEXTS]
    square = render("Natalia sold 48/2 = 24 clips.", StripStyle(
        height_px=factor, font_size_px=16, layout="square", square_px=6 * factor
    ))  # fmt: skip
    return [*strips, square.pixels, *strips[:2]]


@torch.inference_mode()
def own_features(name: str, model: Any, picture: NDArray[np.uint8], geometry: Any) -> NDArray[np.float32]:
    """What the stock model's language model would receive for one picture, [K, D]."""
    if name != "llava_next":
        patches, grid = pack([picture], geometry)
        return model.get_image_features(torch.from_numpy(patches), torch.from_numpy(grid)).pooler_output[0].numpy()
    mean, std = (torch.tensor(values)[:, None, None] for values in (geometry.mean, geometry.std))
    pixels = (torch.from_numpy(picture.copy()).float() / 255 - mean) / std
    hidden = model.model.vision_tower(pixels[None], interpolate_pos_encoding=True, output_hidden_states=True)
    tokens = model.model.multi_modal_projector(hidden.hidden_states[-2][:, 1:])[0]  # all but the class token
    rows, columns = (side // geometry.factor_px for side in picture.shape)
    return tokens.reshape(rows, 2, columns, 2, -1).mean(dim=(1, 3)).reshape(rows * columns, -1).numpy()


def test_latents_are_those_of_the_familys_own_model(family: tuple[str, Path, Any]) -> None:
    name, folder, model = family
    encoder = load_encoder(find_model(str(folder)), dtype="float32", device="cpu")
    factor = encoder.geometry.factor_px
    assert factor == (32 if name.startswith("qwen3") else 28)
    shown = pictures(factor)
    found = encoder.encode(shown)
    assert [len(latents) for latents in found] == [picture.size // factor**2 for picture in shown]
    for picture, latents in zip(shown, found, strict=True):
        expected = own_features(name, model, picture, encoder.geometry)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(latents, expected, rtol=0, atol=2e-5)


def test_latents_of_their_own_are_what_the_familys_own_model_makes_of_their_pictures(
    family: tuple[str, Path, Any], tmp_path: Path
) -> None:
    name, folder, model = family
    encoder = load_encoder(find_model(str(folder)), dtype="float32", device="cpu")
    factor = encoder.geometry.factor_px
    style = StripStyle(cells=4, height_px=factor)
    pipeline.render(Source(location="toy", corpus="toy", limit=3), style, tmp_path / "strips")
    settings = EmbedSettings(targets=TargetSettings(store="float32"), context="latent")
    pipeline.embed(tmp_path / "strips", encoder, tmp_path / "out", settings=settings)
    [rows] = EmbeddingShards(tmp_path / "out")
    drawn = [picture for cot in rows.cots for picture in latent_pictures(render(cot, style).pixels)]
    assert {picture.shape for picture in drawn} == {(factor, factor)}  # two rows of two patches
    known: dict[bytes, NDArray[np.float32]] = {}
    for picture, latent_D in zip(drawn, rows.embedding_LD, strict=True):
        if picture.tobytes() not in known:
            [known[picture.tobytes()]] = own_features(name, model, picture, encoder.geometry)
        np.testing.assert_allclose(latent_D, known[picture.tobytes()], rtol=0, atol=2e-5)
    assert 1 < len(known) < len(drawn)


def test_latents_follow_the_strip_from_left_to_right(family: tuple[str, Path, Any]) -> None:
    _, folder, _ = family
    encoder = load_encoder(find_model(str(folder)), dtype="float32", device="cpu")
    factor = encoder.geometry.factor_px
    plain = np.full((factor, 30 * factor), 255, dtype=np.uint8)
    before = encoder.encode([plain])[0]
    for k in (0, 7, 13, 29):
        marked = plain.copy()
        marked[4:-4, k * factor + 4 : (k + 1) * factor - 4] = 0
        changed = np.abs(encoder.encode([marked])[0] - before).mean(axis=1)
        assert int(changed.argmax()) == k


def test_weights_named_as_in_older_checkpoints_are_found(family: tuple[str, Path, Any], tmp_path: Path) -> None:
    _, folder, _ = family
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in weights.items()}, tmp_path / "model.safetensors")
    one, other = (load_encoder(find_model(str(path)), dtype="float32", device="cpu") for path in (folder, tmp_path))
    strips = pictures(one.geometry.factor_px)[:3]
    for mine, theirs in zip(one.encode(strips), other.encode(strips), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_missing_weight_of_the_tower_is_refused(family: tuple[str, Path, Any], tmp_path: Path) -> None:
    _, folder, _ = family
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    tower = [name for name in weights if "visual" in name or "vision_tower" in name]
    del weights[tower[3]]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UnknownModel, match="lacks 1 weights of its vision tower"):
        load_encoder(find_model(str(tmp_path)), dtype="float32", device="cpu")


def test_every_family_is_tested_here() -> None:
    assert FAMILIES.keys() == BUILT.keys()
