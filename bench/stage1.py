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
from torch.nn import functional as F  # noqa: N812
from transformers import DynamicCache, Qwen3VLVisionModel

from bench.common import compare
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
    def step() -> float:
        total = 0.0
        for problem in problems:
            loss = _sample_loss(learner, encode, problem, forced=forced) / len(problems)
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


def _sample_loss(learner: Learner, encode: Encode, problem: ToyProblem, *, forced: bool) -> Tensor:
    """One sample: picture, encoder, one latent after the other, a second pass for the answer."""
    backbone, head, recipe = learner.backbone, learner.head, learner.recipe
    targets_KD = encode(problem.cot)
    opened = torch.tensor([[*backbone.prompt_ids(problem.question), backbone.begin_id]])
    with torch.no_grad():
        opened_1TD = backbone.embed(opened)
        cache = DynamicCache(config=backbone.model.config.text_config)
        hidden = backbone.hidden(opened_1TD, cache=cache)[:, -1]
    latents = []
    for target_D in targets_KD:
        latent = head(hidden)
        latents.append(latent)
        with torch.no_grad():
            fed = target_D[None] if forced else latent.detach()
            hidden = backbone.hidden(fed[None], cache=cache)[:, -1]
    latents_KD = torch.cat(latents)
    labels = torch.tensor([backbone.end_id, *backbone.answer_ids(problem.answer)])
    with torch.no_grad():
        closing_TD = backbone.embed(labels)
    whole = torch.cat([opened_1TD[0], latents_KD, closing_TD])[None]
    hidden_TD = backbone.hidden(whole)[0]
    first = opened.shape[1] + len(latents_KD) - 1
    answer = F.cross_entropy(backbone.logits(hidden_TD[first : first + len(labels)]), labels)
    alignment = (latents_KD - targets_KD).square().mean(dim=1).mean()
    return recipe.align_weight * alignment + recipe.answer_weight * answer
