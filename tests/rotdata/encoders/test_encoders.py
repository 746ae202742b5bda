"""The frozen tower against the full model, packed against one by one, and the refusal of incomplete weights."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from rotdata.encoders import (
    CallTooLarge,
    Encoder,
    LazyEncoder,
    Placement,
    default_device,
    default_precision,
    load_encoder,
    patches_that_fit,
    tower_hashes,
)
from rotdata.encoders import weights as tower_weights
from rotdata.encoders.attention import _KERNELS as KERNELS
from rotdata.encoders.attention import AttentionPlan, best_kernel
from rotdata.encoders.loading import largest_call
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import GeometryError, PatchGeometry, pack
from rotdata.errors import UnknownModel, UsageError
from rotdata.rendering.strips import StripStyle, render
from tests.tinymodel import save_tiny

TEXTS = [
    "<<7+5=12>>",
    "",
    "a",
    "<<7+5=13>>",
    "Natalia sold 48/2 = 24 clips in May. " * 4,
    "b",
    "<<12*3=36>> <<36-1=35>>",
]
STRIPS = [render(text, StripStyle()).pixels for text in TEXTS]


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> Encoder:
    return load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random model that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite the folder's weights after `change` has had them."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def assert_latents_equal(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> None:
    assert [latents.shape for latents in found] == [latents.shape for latents in expected]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def full_model_latents(folder: Path) -> list[NDArray[np.float32]]:
    """The targets as the whole stock model computes them from packed patches."""
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    patches, grid = pack(STRIPS, PatchGeometry(patch_px=16, merge=2))
    with torch.inference_mode():
        features = model.get_image_features(torch.from_numpy(patches), torch.from_numpy(grid))
    return [latents.numpy() for latents in features.pooler_output]


def test_an_encoder_is_loaded_by_the_name_of_its_model_and_takes_strips() -> None:
    strips = [render(text, StripStyle()) for text in TEXTS]
    encoder = load_encoder("tiny", dtype="float32", device="cpu")
    assert encoder.identity.model == "tiny"
    assert_latents_equal(encoder.encode(strips), encoder.encode([strip.pixels for strip in strips]))
    assert [len(latents_KD) for latents_KD in encoder.encode(strips)] == [strip.num_latents for strip in strips]


def test_an_encoder_runs_where_and_as_it_is_fastest_if_nobody_says(tiny_folder: Path) -> None:
    encoder = load_encoder(str(tiny_folder))
    assert (encoder.device, encoder.identity.dtype) == (default_device(), default_precision(default_device()))


def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="the device 'abacus' can't be used here"):
        load_encoder("tiny", device="abacus")


def test_a_latent_a_factor_comes_out_in_the_order_given(encoder: Encoder) -> None:
    latents = encoder.encode(STRIPS)
    assert [row.shape for row in latents] == [(strip.shape[1] // 32, 192) for strip in STRIPS]
    assert all(row.dtype == np.float32 for row in latents)


def test_packed_equals_one_by_one(encoder: Encoder) -> None:
    assert_latents_equal(encoder.encode(STRIPS), [encoder.encode([strip])[0] for strip in STRIPS])


def test_calls_are_filled_up_to_few_sizes(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    forward = encoder._forward

    def count(tiles: Tensor, groups: Any) -> Tensor:
        sizes.append(len(tiles))
        return forward(tiles, groups)

    monkeypatch.setattr(encoder, "_forward", count)
    for strips in (STRIPS, STRIPS[:1], STRIPS[2:5]):
        assert_latents_equal(encoder.encode(strips), [encoder.encode([strip])[0] for strip in strips])
    assert {size % 64 for size in sizes} == {0}


def test_the_order_of_strips_does_not_matter(encoder: Encoder) -> None:
    assert_latents_equal(encoder.encode(STRIPS[::-1])[::-1], encoder.encode(STRIPS))


def test_latents_equal_the_image_features_of_the_full_model(encoder: Encoder, tiny_folder: Path) -> None:
    assert_latents_equal(encoder.encode(STRIPS), full_model_latents(tiny_folder))


def test_a_tower_with_deepstack_gives_the_image_features_too(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, deepstack_visual_indexes=[0, 2])
    encoder = load_encoder(find_model(str(folder)), dtype="float32", device="cpu")
    assert_latents_equal(encoder.encode(STRIPS), full_model_latents(folder))


def test_different_strips_have_different_latents(encoder: Encoder) -> None:
    one, other = encoder.encode([STRIPS[0], STRIPS[3]])
    assert np.abs(one - other).max() > 1e-4


def test_no_strips_give_no_latents(encoder: Encoder) -> None:
    assert encoder.encode([]) == []


def test_a_strip_of_another_factor_is_refused(encoder: Encoder) -> None:
    with pytest.raises(GeometryError, match="--height 32"):
        encoder.encode([render("a", StripStyle(height_px=28)).pixels])


def test_bfloat16_is_near_float32(encoder: Encoder, tiny_folder: Path) -> None:
    coarse = load_encoder(find_model(str(tiny_folder)), dtype="bfloat16", device="cpu")
    assert coarse.identity.dtype == "bfloat16"
    for mine, theirs in zip(coarse.encode(STRIPS), encoder.encode(STRIPS), strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.05 * np.abs(theirs).max())


def test_the_identity_says_what_decides_the_output(encoder: Encoder, tiny_folder: Path) -> None:
    assert encoder.geometry == PatchGeometry(patch_px=16, merge=2)
    assert encoder.identity.as_json() == {
        "model": tiny_folder.name,
        "revision": None,
        "tower_sha256": tower_hashes(find_model(str(tiny_folder))).stored,
        "tower_values_sha256": tower_hashes(find_model(str(tiny_folder))).values,
        "output": "pooler_output",
        "factor": 32,
        "width": 192,
        "dtype": "float32",
    }


def test_the_embedded_model_loads() -> None:
    latents = load_encoder(find_model("tiny"), dtype="float32", device="cpu").encode(STRIPS)
    assert all(np.isfinite(row).all() for row in latents)


@pytest.mark.parametrize("lost", ["model.visual.blocks.1.attn.qkv.weight", "model.visual.merger.linear_fc2.bias"])
def test_a_missing_tower_weight_is_refused(folder: Path, lost: str) -> None:
    change_weights(folder, lambda weights: weights.pop(lost))
    name = lost.removeprefix("model.visual.")
    with pytest.raises(UnknownModel, match=rf"lacks 1 weights of its vision tower .{name}"):
        load_encoder(find_model(str(folder)))


def test_a_missing_weight_of_the_language_model_does_not_matter(folder: Path, encoder: Encoder) -> None:
    change_weights(folder, lambda weights: weights.pop("model.language_model.layers.0.mlp.up_proj.weight"))
    assert_latents_equal(load_encoder(find_model(str(folder)), dtype="float32").encode(STRIPS), encoder.encode(STRIPS))


def test_an_unknown_architecture_lists_the_known_ones(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UnknownModel, match=r"no encoder for model_type 'bert' .*: known are qwen3_vl"):
        load_encoder(find_model(str(folder)))


def test_a_tower_weight_of_another_shape_is_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.visual.merger.linear_fc2.bias": torch.zeros(7)}))
    with pytest.raises(UnknownModel, match=r"lacks 1 weights of its vision tower .merger\.linear_fc2\.bias"):
        load_encoder(find_model(str(folder)))


def test_truncated_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UnknownModel, match=r"are damaged .*: fetch or copy them again"):
        load_encoder(find_model(str(folder)))


DAMAGED = [b"", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"no", b"\x02" + b"\0" * 7 + b"[]"]


@pytest.mark.parametrize("content", DAMAGED)
def test_what_is_no_safetensors_file_has_no_tower_hash(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UnknownModel, match=r"model\.safetensors of model is no safetensors file"):
        tower_hashes(find_model(str(folder)))


def test_a_file_that_ends_early_has_no_tower_hash(folder: Path) -> None:
    change = {"model.visual.merger.linear_fc2.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(change).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 7)
    with pytest.raises(UnknownModel, match="fetch or copy it again"):
        tower_hashes(find_model(str(folder)))


def test_the_tower_hashes_change_with_any_weight_of_the_tower(folder: Path) -> None:
    seen = [tower_hashes(find_model(str(folder)))]
    for name in ("model.visual.patch_embed.proj.weight", "model.visual.merger.linear_fc2.bias"):
        change_weights(folder, lambda weights, name=name: weights[name].view(-1)[0].add_(1))
        seen.append(tower_hashes(find_model(str(folder))))
    assert len({each.stored for each in seen}) == 3
    assert len({each.values for each in seen}) == 3


def test_the_tower_hashes_do_not_change_with_the_language_model(folder: Path) -> None:
    before = tower_hashes(find_model(str(folder)))
    change_weights(folder, lambda weights: weights["model.language_model.norm.weight"].add_(1))
    assert tower_hashes(find_model(str(folder))) == before


def test_the_tower_hashes_do_not_depend_on_how_weights_fall_into_files(folder: Path) -> None:
    before = tower_hashes(find_model(str(folder)))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for part in range(3):
        save_file({name: weights[name] for name in names[part::3]}, folder / f"model-{part}.safetensors")
    assert tower_hashes(find_model(str(folder))) == before


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_type_that_holds_the_same_numbers_changes_no_hash_of_values(folder: Path, narrow: torch.dtype) -> None:
    def retype(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
        return lambda weights: weights.update({name: value.to(dtype) for name, value in weights.items()})

    exact = tower_hashes(find_model(str(folder)))
    change_weights(folder, retype(narrow))
    short = tower_hashes(find_model(str(folder)))
    change_weights(folder, retype(torch.float32))
    wide = tower_hashes(find_model(str(folder)))
    assert len({exact.stored, short.stored, wide.stored}) == 3
    assert short.values == wide.values
    assert short.values != exact.values  # they were rounded


def test_neither_the_names_of_older_checkpoints_nor_counted_places_change_a_hash_of_values(folder: Path) -> None:
    before = tower_hashes(find_model(str(folder)))

    def rename(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("model.visual.")]:
            weights[name.removeprefix("model.")] = weights.pop(name)
        weights["visual.position_ids"] = torch.arange(4)

    change_weights(folder, rename)
    after = tower_hashes(find_model(str(folder)))
    assert after.values == before.values
    assert after.stored != before.stored


def test_a_tower_is_read_once_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tower_hashes(find_model(str(folder)))
    with monkeypatch.context() as patched:
        patched.setattr(tower_weights, "_tower_tensors", None)
        assert tower_hashes(find_model(str(folder))) == first
    change_weights(folder, lambda weights: weights["model.visual.merger.linear_fc2.bias"].add_(1))
    assert tower_hashes(find_model(str(folder))) != first


def test_shards_say_by_which_hash_a_tower_is_known(encoder: Encoder) -> None:
    told = encoder.identity.as_json()
    untold = {name: value for name, value in told.items() if name != "tower_values_sha256"}
    assert encoder.identity.fits(told | {"tower_sha256": "0" * 64, "model": "other"})  # the same, stored otherwise
    assert encoder.identity.fits(untold)
    for strange in (told | {"tower_values_sha256": "0" * 64}, untold | {"tower_sha256": "0" * 64}, {}):
        assert not encoder.identity.fits(strange)
    assert not encoder.identity.fits(told | {"dtype": "bfloat16"})


def test_a_folder_without_tower_has_no_tower_hash(folder: Path) -> None:
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "visual" in name])
    with pytest.raises(UnknownModel, match="no vision tower to read"):
        tower_hashes(find_model(str(folder)))


# Where and how a tower runs.


def each_by_itself(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, scale: float
) -> Tensor:
    """What a kernel for sequences of any length is to compute: [P, H, d] three times -> [P, H, d]."""
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert max_q == max_k == int(cu_q.diff().max())
    outputs = []
    for start, stop in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[start:stop], key[start:stop]) * scale
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[start:stop]))
    return torch.cat(outputs)


@pytest.mark.parametrize("kernel", ["varlen", "flash-attn"])
def test_kernels_for_any_length_are_asked_for_what_grouped_computes(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, encoder: Encoder, tiny_folder: Path
) -> None:
    flash = types.ModuleType("flash_attn")
    flash.flash_attn_varlen_func = lambda *args, softmax_scale: each_by_itself(*args, scale=softmax_scale)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", each_by_itself)
    plan = AttentionPlan(runs=[(2, 3), (1, 7)])
    query, key, value = torch.randn(3, 2, 13, 8)
    found, expected = (KERNELS[name](query, key, value, plan, 0.3) for name in (kernel, "grouped"))
    torch.testing.assert_close(found, expected)
    other = load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu", kernel=kernel)
    assert_latents_equal(other.encode(STRIPS), encoder.encode(STRIPS))


def test_kernels_that_can_not_run_here_are_not_chosen() -> None:
    assert best_kernel("cpu", torch.bfloat16) == "grouped"
    assert best_kernel("cuda", torch.float32) == "grouped"
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, ImportError)):
            KERNELS["varlen"](*torch.randn(3, 2, 13, 8), AttentionPlan(runs=[(1, 13)]), 0.3)


def test_the_largest_call_takes_its_share_of_memory_as_a_power_of_two() -> None:
    assert largest_call(80e9, 100e3) == 65_536
    assert largest_call(10e9, 500e3) == 4096
    assert largest_call(1e6, 500e3) == 1
    assert largest_call(0, 500e3) == 1


def test_a_cpu_takes_calls_that_its_caches_like(tiny_folder: Path) -> None:
    lazy = LazyEncoder(find_model(str(tiny_folder)), Placement())
    assert patches_that_fit(lazy) == 2048
    assert "loaded" not in vars(lazy)


def test_a_lazy_encoder_is_the_encoder_and_travels_light(encoder: Encoder, tiny_folder: Path) -> None:
    lazy = LazyEncoder(find_model(str(tiny_folder)), Placement())
    assert (lazy.geometry, lazy.identity) == (encoder.geometry, encoder.identity)
    assert_latents_equal(lazy.launch(STRIPS)(), encoder.encode(STRIPS))
    assert "loaded" not in vars(pickle.loads(pickle.dumps(lazy)))
    assert lazy.on("cuda:1", threads=3).where == Placement(device="cuda:1")


def test_what_does_not_fit_into_memory_is_a_call_too_large(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(encoder, "_forward", run_out)
    with pytest.raises(CallTooLarge, match="patches in one call of the tower are too many for the memory of cpu"):
        encoder.encode(STRIPS)


def test_precision_is_half_only_where_the_cpu_multiplies_it() -> None:
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert default_precision("cpu") == ("bfloat16" if native else "float32")
