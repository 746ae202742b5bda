"""embed: strips to written shards, against the bare tower on packed patches and against one picture a call.

A tower of Qwen3-VL-4B's true shape with random weights, in bf16. Shares are of the card's measured matrix product.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from bench.common import gsm8k_texts
from bench.gpu.job import Job
from bench.models import stock_tower, tower
from rotdata import corpora
from rotdata.encoders import Kernel, LazyEncoder, default_kernel, load_encoder, patches_that_fit, placement
from rotdata.encoders.packed import PackedEncoder, SameSize
from rotdata.encoders.patches import pack
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline, resumable
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import Context

AUG_ROWS = 385_000
"""Of GSM8k-Aug, which the paper trains on."""
_CELLS = StripStyle(cells=6, align_steps=True)
_TOP = 12


def run(job: Job) -> None:
    """The kernels, the towers, and the line."""
    limit = job.matrix_flop_s
    folder = tower(job.size.tower)
    corpus, texts = gsm8k_texts(job.size.rows)
    pictures = list(_call(texts, job.size.patches))
    encoder = load_encoder(folder, dtype="bfloat16", device=str(job.device))
    latents = sum(picture.size // encoder.geometry.factor_px**2 for picture in pictures)
    flop = _flop(encoder, pictures)
    chosen = default_kernel(str(job.device), "bfloat16")
    shared = {"corpus": corpus, "strips": len(pictures), "latents": latents}

    def with_share(seconds: float) -> dict[str, Any]:
        return {
            "latents_s": round(latents / seconds), "ms": round(1000 * seconds, 3),
            "share_of_matrix_product": round(flop / seconds / limit, 4),
        }  # fmt: skip

    def bare(kernel: Kernel) -> dict[str, Any]:
        ours = load_encoder(folder, dtype="bfloat16", device=str(job.device), kernel=kernel)
        return {**shared, "chosen": kernel == chosen, **with_share(_bare_seconds(job, ours, pictures))}

    for kernel in get_args(Kernel):
        job.measure(f"tower, patches on the device, {kernel}", partial(bare, kernel))
    job.measure("stock tower, packed patches on the device", lambda: with_share(_stock_seconds(job, encoder, pictures)))
    job.measure(
        "encode, pictures to latents on the host", lambda: with_share(job.seconds(lambda: encoder.encode(pictures)))
    )
    job.measure("one picture a call, stock processor and tower", lambda: _one_by_one(job, encoder, pictures))
    with _work() as work:
        rows = _rows_file(work, texts)
        styles: dict[Context, StripStyle] = {"strip": StripStyle(), "latent": _CELLS}
        for context, style in styles.items():
            job.measure(
                f"line, --context {context}", partial(_line, job, work / context, rows, context, style), needs=5
            )
    if job.on_gpu:
        job.measure("profile of a call", lambda: _profile(job, encoder, pictures))


def _call(texts: Sequence[str], patches: int) -> Iterator[NDArray[np.uint8]]:
    """Strips that make one call of about so many patches."""
    taken = 0
    for text in texts:
        pixels = render(text, StripStyle()).pixels
        taken += pixels.size // 16**2
        if taken > patches:
            return
        yield pixels


def _flop(encoder: PackedEncoder, pictures: Sequence[NDArray[np.uint8]]) -> int:
    """Multiplications and additions of a call, as torch counts those that are made: with dense attention."""
    plain = load_encoder(tower_of(encoder), dtype="bfloat16", device=encoder.device, kernel="grouped")
    with FlopCounterMode(display=False) as counter:
        plain.encode(pictures)
    return counter.get_total_flops()


def tower_of(encoder: PackedEncoder) -> Any:
    """The folder that a tower of ours was made in."""
    return tower(encoder.identity.model.removesuffix(" (random)"))


@torch.inference_mode()
def _bare_seconds(job: Job, encoder: PackedEncoder, pictures: Sequence[NDArray[np.uint8]]) -> float:
    """Our tower alone: patches are on the device already, and latents stay there."""
    kept: list[Any] = []
    forward = encoder._forward  # noqa: SLF001 -- what lies between the copies, and no more

    def noting(tiles: Tensor, groups: Sequence[SameSize]) -> Tensor:
        kept[:] = tiles.to(job.device), groups
        return forward(tiles, groups)

    encoder._forward = noting  # type: ignore[method-assign]  # noqa: SLF001
    encoder.encode(pictures)
    tiles, groups = kept
    return job.seconds(lambda: forward(tiles, groups))


@torch.inference_mode()
def _stock_seconds(job: Job, encoder: PackedEncoder, pictures: Sequence[NDArray[np.uint8]]) -> float:
    """The tower of transformers on the same patches, as it comes: sdpa, picture after picture in every layer."""
    stock = stock_tower(tower_of(encoder), "bfloat16").to(job.device)
    patches, grid = pack(pictures, encoder.geometry)
    there = torch.from_numpy(patches).to(job.device, torch.bfloat16)
    grid_there = torch.from_numpy(grid).to(job.device)
    return job.seconds(lambda: stock(there, grid_thw=grid_there), rounds=3)


@torch.inference_mode()
def _one_by_one(job: Job, encoder: PackedEncoder, pictures: Sequence[NDArray[np.uint8]]) -> Mapping[str, Any]:
    geometry = encoder.geometry
    stock = stock_tower(tower_of(encoder), "bfloat16").to(job.device)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False, patch_size=geometry.patch_px, temporal_patch_size=geometry.frames, merge_size=geometry.merge,
        image_mean=list(geometry.mean), image_std=list(geometry.std),
    )  # fmt: skip
    images = [Image.fromarray(np.ascontiguousarray(each)).convert("RGB") for each in pictures[: job.size.alone]]

    def each_alone() -> list[Any]:
        latents = []
        for image in images:
            inputs = processor(image, return_tensors="pt")
            patches = inputs["pixel_values"].to(job.device, torch.bfloat16)
            latents.append(stock(patches, grid_thw=inputs["image_grid_thw"].to(job.device)).pooler_output.float().cpu())
        return latents

    expected = torch.cat(each_alone())
    found = torch.from_numpy(np.concatenate(encoder.encode(pictures[: len(images)])))
    ours = job.seconds(lambda: encoder.encode(pictures[: len(images)]))
    alone = job.seconds(each_alone, rounds=2, warm=False)
    return {
        "pictures": len(images),
        "latents_s": round(len(expected) / alone),
        "ours_times_as_fast": round(alone / ours, 2),
        "difference_in_norm": round(float((found - expected).norm() / expected.norm()), 5),
    }


def _line(job: Job, work: Path, rows: Path, context: Context, style: StripStyle) -> Mapping[str, Any]:
    """`rotdata render` and `rotdata embed` as the commands run them; rows and latents a second of the second."""
    source = corpora.Source(location=str(rows), corpus="generic")
    drawn = pipeline.render(source, style, work / "strips", rows_per_shard=job.size.rows_per_shard)
    encoder = LazyEncoder(tower(job.size.tower), placement(str(job.device), dtype="bfloat16"))
    settings = EmbedSettings(patches_per_call=patches_that_fit(encoder), kernel=encoder.where.kernel, context=context)
    started = time.perf_counter()
    made = pipeline.embed(
        work / "strips", encoder, work / "shards", settings=settings, mode=resumable.Mode(overwrite=True)
    )
    seconds = time.perf_counter() - started
    return {
        "rows": made.rows_out, "rejected": made.rows_rejected, "latents": made.latents,
        "render_rows_s": round(drawn.rows_out / drawn.seconds, 1),
        "rows_s": round(made.rows_out / seconds, 1), "latents_s": round(made.latents / seconds),
        "kernel": settings.kernel, "patches_per_call": settings.patches_per_call,
        "gb": round(made.bytes / 1e9, 3), "peak_gib": job.peak_gib(),
        "385k_rows": {
            "hours": round(AUG_ROWS * seconds / made.rows_out / 3600, 3),
            "gb": round(AUG_ROWS * made.bytes / made.rows_out / 1e9, 1),
        },
    }  # fmt: skip


def _profile(job: Job, encoder: PackedEncoder, pictures: Sequence[NDArray[np.uint8]]) -> Mapping[str, Any]:
    """Where the device's time of a call goes, by kernel."""
    from torch.profiler import ProfilerActivity, profile

    encoder.encode(pictures)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        encoder.encode(pictures)
        job.synchronize()
    spent = Counter[str]()
    for event in seen.key_averages():
        spent[event.key[:80]] += round(event.self_device_time_total / 1000, 3)
    return {"ms_by_kernel": dict(islice(spent.most_common(), _TOP))}


def _rows_file(work: Path, texts: Sequence[str]) -> Path:
    file = work / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": "?", "cot": text, "answer": "!"}) + "\n" for text in texts))
    return file


@contextmanager
def _work() -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="rot-gpu-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
