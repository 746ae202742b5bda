"""embed-limit: texts to written shards, everything included, against the bare tower on patches packed beforehand.

The baseline is the faster of two ways to call the stock tower on the same calls: its own packing (one packed sequence,
attention divided by cu_seqlens), and a batch of equal K at a time. Both get patches in memory, and throw their output
away. Throughput is of patches; reached GFLOP/s are shown beside what one large product of matrices reaches here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, Qwen3VLVisionModel

from bench.common import compare, gsm8k_texts, timed
from bench.models import model_8x512, stock_tower, tiny, tower_4b
from rotdata.corpora import Source
from rotdata.encoders import CPU_PATCHES_PER_CALL, Precision, default_precision, load_encoder
from rotdata.encoders.models import ModelFolder
from rotdata.encoders.patches import calls, pack
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline, resumable

_MATRIX = 2048


def figures() -> Iterator[dict[str, Any]]:
    """The figure of the 8x512 tower."""
    yield _figure("embed-limit", model_8x512(), 256)


def tiny_figures() -> Iterator[dict[str, Any]]:
    """The figure of tiny's tower."""
    yield _figure("embed-limit-tiny", tiny(), 2000)


def figures_4b() -> Iterator[dict[str, Any]]:
    """The figure of Qwen3-VL-4B's shape."""
    yield _figure("embed-limit-4b", tower_4b(), 24)


def _figure(name: str, folder: ModelFolder, rows: int) -> dict[str, Any]:
    dtype = default_precision("cpu")
    corpus, texts = gsm8k_texts(rows)
    encoder = load_encoder(folder, dtype=dtype, device="cpu")
    tower = stock_tower(folder, dtype)
    pictures = [render(text, StripStyle()).pixels for text in dict.fromkeys(texts)]
    sizes = [pixels.size // encoder.geometry.patch_px**2 for pixels in pictures]
    grouped = [[pictures[i] for i in call] for call in calls(sizes, CPU_PATCHES_PER_CALL)]
    together = [packed(call, encoder.geometry, dtype) for call in grouped]
    alike = [
        packed(list(same), encoder.geometry, dtype)
        for call in grouped
        for _, same in groupby(call, key=lambda pixels: pixels.shape)
    ]
    bare = min((together, alike), key=lambda inputs: timed(lambda: run_tower(tower, inputs[: len(inputs) // 4 + 1])))
    work = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        file = work / "rows.jsonl"
        file.write_text("".join(json.dumps({"question": "?", "cot": text, "answer": "!"}) + "\n" for text in texts))
        source = Source(location=str(file), corpus="generic")
        again = resumable.Mode(overwrite=True)
        per_shard = -(-rows // 3)

        def ours() -> None:
            pipeline.render(source, StripStyle(), work / "strips", rows_per_shard=per_shard, mode=again)
            pipeline.embed(work / "strips", encoder, work / "embedded", mode=again)

        figure = compare(
            name, ours, lambda: run_tower(tower, bare), units=sum(sizes), unit="patches/s", corpus=corpus, dtype=dtype
        )
    finally:
        shutil.rmtree(work)
    per_patch = _flop_a_patch(folder, sizes)
    return figure | {
        "rows": rows,
        "baseline_calls": "equal K" if bare is alike else "packed",
        "gflop_s": round(figure["ours"] * per_patch / 1e9, 1),
        "matmul_gflop_s": round(_matmul_flop_s(dtype) / 1e9, 1),
    }


Inputs = tuple[Tensor, Tensor]


def packed(pictures: Sequence[Any], geometry: Any, dtype: Precision) -> Inputs:
    """A call of the stock tower, ready in memory."""
    patches, grid = pack(pictures, geometry)
    return torch.from_numpy(patches).to(getattr(torch, dtype)), torch.from_numpy(grid)


@torch.inference_mode()
def run_tower(tower: Qwen3VLVisionModel, inputs: list[Inputs]) -> None:
    """Calls of the bare tower, whose output is thrown away."""
    for patches, grid in inputs:
        tower(patches, grid_thw=grid)


def _flop_a_patch(folder: ModelFolder, sizes: Sequence[int]) -> float:
    """Multiplications and additions of the tower's matrices and of its attention, a patch."""
    with torch.device("meta"):
        tower = Qwen3VLVisionModel(AutoConfig.from_pretrained(folder.path).vision_config)
    config = tower.config
    block = sum(weight.numel() for weight in tower.blocks.parameters() if weight.ndim == 2)
    mergers = sum(
        weight.numel() for part in (tower.merger, tower.deepstack_merger_list) for weight in part.parameters()
    )
    attended = sum(size**2 for size in sizes) / sum(sizes)  # patches that one attends to
    attention = 2 * config.depth * config.hidden_size * attended
    return 2 * (block + mergers / config.spatial_merge_size**2 + attention)


def _matmul_flop_s(dtype: Precision) -> float:
    left, right = (torch.ones(_MATRIX, _MATRIX, dtype=getattr(torch, dtype)) for _ in range(2))
    return 2 * _MATRIX**3 / min(timed(lambda: left @ right) for _ in range(5))
