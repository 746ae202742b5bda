"""Every family of towers against its own model's image features, on tiny random models built from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from rotdata.encoders import load_encoder
from rotdata.errors import UnknownModel
from rotdata.models import FAMILIES, find_model
from rotdata.patches import pack
from rotdata.strips import StripStyle, render

TEXTS = ["<<7+5=12>>", "", "a", "<<7+5=13>>", "Natalia sold 48/2 = 24 clips in May. " * 4, "<<12*3=36>> <<36-1=35>>"]
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
TEXT = {
    "num_hidden_layers": 1,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "rope_parameters": ROPE,
}
TOWER = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 4,
    "out_hidden_size": 48,
    "initializer_range": 0.05,
}


def qwen3_vl_moe() -> PreTrainedModel:
    vision = TOWER | {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [1]}
    text = TEXT | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    return Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(vision_config=vision, text_config=text))


def qwen3_5() -> PreTrainedModel:
    vision = TOWER | {"patch_size": 16, "num_position_embeddings": 64}
    text = TEXT | {"layer_types": ["full_attention"]}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(vision_config=vision, text_config=text))


def qwen2_5_vl() -> PreTrainedModel:
    vision = TOWER | {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=TEXT))


def llava_next() -> PreTrainedModel:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 56,
        "projection_dim": 32,
    }
    text = {"model_type": "mistral", "num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 64}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320}
    return LlavaNextForConditionalGeneration(LlavaNextConfig(vision_config=vision, text_config=text))


BUILT: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen2_5_vl": qwen2_5_vl,
    "llava_next": llava_next,
}


@pytest.fixture(scope="module", params=BUILT)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """Name, folder and model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILT[request.param]().eval()
        for parameter in model.parameters():  # far from the start, where attention is next to uniform
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05)
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


def test_every_family_is_tested_here_or_with_tiny() -> None:
    assert FAMILIES.keys() == BUILT.keys() | {"qwen3_vl", "qwen3_5_moe"}  # the last has qwen3_5's tower
