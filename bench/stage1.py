"""stage1-student and stage1-teacher: a training step on shards against a loop over samples and tokens.

The loop keeps its key-value cache and, as code without shards must, draws and encodes its picture in every step, with
the stock tower on this one picture.
Random 8x512 language model and tower, batch 16, fp32. Both must give the same loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLVisionModel

from bench.common import compare
from bench.loop import sample_loss
from bench.models import model_8x512, stock_tower
from rotdata.corpora.toy import ToyProblem, toy_problems
from rotdata.encoders import load_encoder
from rotdata.encoders.patches import PatchGeometry, pack
from rotdata.rendering.strips import StripStyle, render
from rottrain.config import Stage1Config
from rottrain.data.batches import Batch, Collator, Example
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner

BATCH = 16
Encode = Callable[[str], Tensor]
"""Text -> its latents [K, D]."""


def figures() -> Iterator[dict[str, Any]]:
    """Both stage-1 figures."""
    folder = model_8x512()
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    backbone = Backbone.load(folder, dtype=torch.float32, device="cpu")
    torch.manual_seed(0)
    head = ProjectionHead(width_in=512, width_out=512, hidden=1024, activation="swiglu")
    problems = list(islice(toy_problems("train"), BATCH))
    strips = [render(problem.cot, StripStyle()).pixels for problem in problems]
    examples = [
        Example(
            id=str(number),
            prompt_ids=backbone.prompt_ids(problem.question),
            targets_KD=latents,
            answer_ids=backbone.answer_ids(problem.answer),
        )
        for number, (problem, latents) in enumerate(zip(problems, encoder.launch(strips)(), strict=True))
    ]
    batch = Collator(backbone.pad_id)(examples)
    tower = stock_tower(folder, "float32")

    def encode(text: str) -> Tensor:
        return _encoded(tower, text, encoder.geometry)

    for rollout in ("student", "teacher"):
        learner = Learner(backbone, head, Stage1Config.paper(rollout=rollout))
        ours = _step(learner, batch)
        loop = _loop(learner, encode, problems, forced=rollout == "teacher")
        difference = abs(ours() - loop())
        figure = compare(f"stage1-{rollout}", ours, loop, units=BATCH, unit="samples/s", rounds=2)
        yield figure | {"loss_difference": round(difference, 7), "latents": int(batch["targets_mask_BK"].sum())}


def _step(learner: Learner, batch: Batch) -> Callable[[], float]:
    def step() -> float:
        loss = learner(**batch)["loss"]
        loss.backward()
        learner.zero_grad()
        return float(loss.detach())

    return step


def _loop(learner: Learner, encode: Encode, problems: list[ToyProblem], *, forced: bool) -> Callable[[], float]:
    backbone = learner.backbone

    def step() -> float:
        total = 0.0
        for problem in problems:
            prompt, answer = backbone.prompt_ids(problem.question), backbone.answer_ids(problem.answer)
            loss = sample_loss(learner, prompt, answer, encode(problem.cot), forced=forced) / len(problems)
            loss.backward()
            total += float(loss.detach())
        learner.zero_grad()
        return total

    return step


@torch.no_grad()
def _encoded(tower: Qwen3VLVisionModel, text: str, geometry: PatchGeometry) -> Tensor:
    """The latents of a text, [K, D]."""
    patches, grid = pack([render(text, StripStyle()).pixels], geometry)
    latents_KD: Tensor = tower(torch.from_numpy(patches), grid_thw=torch.from_numpy(grid)).pooler_output
    return latents_KD
