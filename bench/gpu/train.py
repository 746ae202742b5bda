"""train: steps of both stages on language models of true shape, and the loop of one sample and one latent at a time.

Random weights in bf16, the paper's recipe: the head alone learns in stage 1, LoRA in stage 2. Both sides take the
optimizer's step. A loop's step is timed on a few rows and scaled to a batch; it draws no picture, so it is flattered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.job import Job
from bench.loop import sample_loss
from bench.models import language_model
from rottrain.config import Stage1Config, Stage2Config
from rottrain.data.batches import Collator, Example
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner

_IDS = 256
"""Token ids of tiny's tokenizer that any text may have."""


def run(job: Job) -> None:
    """Stage by stage, the largest model first."""
    _ = job.matrix_flop_s
    for shape in job.size.languages:
        job.measure(f"{shape}, model", partial(_train, job, shape))


def _train(job: Job, shape: str) -> Mapping[str, Any]:
    """Every rollout of both stages on one model."""
    backbone = language_model(shape, device=job.device, dtype=torch.bfloat16)
    if not job.on_gpu:  # as Backbone.load has it
        backbone.model.model.language_model.set_attn_implementation("eager")
    torch.manual_seed(0)
    head = ProjectionHead(width_in=backbone.width, width_out=backbone.width, hidden=None, activation="swiglu")
    head.to(job.device)
    rows = _rows(job, backbone)
    jacobi = f"jacobi:{job.size.sweeps}"
    for stage in ("stage 1", "stage 2"):
        if stage == "stage 2":
            backbone.add_adapter(Stage2Config.paper().lora, train_tokens=False)
        for rollout in ("teacher", jacobi, "student"):
            recipe = Stage1Config.paper(rollout=rollout) if stage == "stage 1" else Stage2Config.paper(rollout=rollout)
            learner = Learner(backbone, head, recipe).train()
            job.measure(f"{shape}, {stage}, {rollout}", partial(_step, job, learner, rows), needs=2)
        job.measure(
            f"{shape}, {stage}, one sample and one latent at a time", partial(_loop, job, learner, rows), needs=5
        )
    return {"parameters": sum(value.numel() for value in backbone.model.parameters())}


def _rows(job: Job, backbone: Backbone) -> list[Example]:
    """A batch of random rows, all of one length."""
    size, rng = job.size, random.Random(0)  # noqa: S311 -- no secret

    def ids(count: int) -> list[int]:
        return [rng.randrange(_IDS) for _ in range(count)]

    targets = np.random.default_rng(0).normal(scale=0.5, size=(size.batch, size.latents, backbone.width))
    return [
        Example(
            id=str(row), prompt_ids=ids(size.prompt), targets_KD=targets[row].astype(np.float32),
            answer_ids=ids(size.answer),
        )
        for row in range(size.batch)
    ]  # fmt: skip


def _step(job: Job, learner: Learner, rows: list[Example]) -> Mapping[str, Any]:
    """Seconds, memory, and the share of the matrix product that its own multiplications reach."""
    batch = Collator(learner.backbone.pad_id)(rows)
    batch.pop("ids")
    there = {name: value.to(job.device) for name, value in batch.items()}  # type: ignore[attr-defined]  # they are tensors
    optimizer = torch.optim.AdamW(learner.trained().values(), lr=1e-6)
    losses: list[float] = []

    def step() -> None:
        loss = learner(**there)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.trained().values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))

    seconds = job.seconds(step)
    peak = job.peak_gib()
    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops()
    latents = len(rows) * len(rows[0].targets_KD)
    return {
        "rows": len(rows), "latents_a_row": len(rows[0].targets_KD), "prompt": len(rows[0].prompt_ids),
        "step_s": round(seconds, 4), "latents_s": round(latents / seconds), "peak_gib": peak,
        "tflop": round(flop / 1e12, 4), "share_of_matrix_product": round(flop / seconds / job.matrix_flop_s, 4),
        "learns": sum(value.numel() for value in learner.trained().values()), "loss": round(losses[-1], 5),
    }  # fmt: skip


def _loop(job: Job, learner: Learner, rows: list[Example]) -> Mapping[str, Any]:
    """The student's step, sample by sample and latent by latent."""
    some = rows[: job.size.loop_rows]
    optimizer = torch.optim.AdamW(learner.trained().values(), lr=1e-6)

    def step() -> None:
        for row in some:
            targets_KD = torch.from_numpy(row.targets_KD).to(job.device)
            loss = sample_loss(learner, row.prompt_ids, row.answer_ids, targets_KD, forced=False) / len(some)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = job.seconds(step, rounds=2)
    return {
        "rows_timed": len(some), "step_s": round(seconds * len(rows) / len(some), 3), "of_rows": len(rows),
        "peak_gib": job.peak_gib(),
    }  # fmt: skip
