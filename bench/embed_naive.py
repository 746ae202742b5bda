"""embed-naive, embed-naive-4b: packed strips against one image at a time.

The baseline goes through the stock processor, resizing off, and the tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from bench.common import compare, toy_texts
from bench.models import stock_tower, tiny, tower_4b
from rotdata.encoders import CPU_PATCHES_PER_CALL, Precision, default_precision, load_encoder
from rotdata.encoders.models import ModelFolder
from rotdata.encoders.patches import calls
from rotdata.rendering.strips import StripStyle, render


def figures() -> Iterator[dict[str, Any]]:
    """The figure of tiny's tower."""
    yield _figure("embed-naive", tiny(), 256, "float32")


def figures_4b() -> Iterator[dict[str, Any]]:
    """The figure of Qwen3-VL-4B's shape."""
    yield _figure("embed-naive-4b", tower_4b(), 32, default_precision("cpu"))


def _figure(name: str, folder: ModelFolder, strips: int, dtype: Precision) -> dict[str, Any]:
    encoder = load_encoder(folder, dtype=dtype, device="cpu")
    pictures = [render(text, StripStyle()).pixels for text in toy_texts(strips)]
    tower = stock_tower(folder, dtype)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=encoder.geometry.patch_px,
        temporal_patch_size=encoder.geometry.frames,
        merge_size=encoder.geometry.merge,
        image_mean=list(encoder.geometry.mean),
        image_std=list(encoder.geometry.std),
    )
    images = [Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB") for pixels in pictures]
    sizes = [pixels.shape[1] // encoder.geometry.patch_px * encoder.geometry.merge for pixels in pictures]

    def ours() -> list[np.ndarray]:
        latents: list[np.ndarray] = [np.empty(0)] * len(pictures)
        for call in calls(sizes, CPU_PATCHES_PER_CALL):
            for index, rows in zip(call, encoder.encode([pictures[i] for i in call]), strict=True):
                latents[index] = rows
        return latents

    @torch.inference_mode()
    def one_at_a_time() -> list[np.ndarray]:
        latents = []
        for image in images:
            inputs = processor(image, return_tensors="pt")
            output = tower(inputs["pixel_values"].to(tower.dtype), grid_thw=inputs["image_grid_thw"])
            latents.append(output.pooler_output.float().numpy())
        return latents

    difference = max(np.abs(a - b).max() for a, b in zip(ours(), one_at_a_time(), strict=True))
    figure = compare(name, ours, one_at_a_time, units=strips, unit="strips/s", dtype=dtype)
    return figure | {"largest_difference": float(difference)}
