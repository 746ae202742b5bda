"""A training step as the paper's code takes it: a sample at a time, a latent at a time, then a pass for the answer.

It keeps its key-value cache, as a competent person's loop would. Shapes: K latents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import DynamicCache

from rottrain.training.objective import Learner


def sample_loss(
    learner: Learner, prompt_ids: Sequence[int], answer_ids: Sequence[int], targets_KD: Tensor, *, forced: bool
) -> Tensor:
    """The learner's loss of one sample; `forced` feeds the true latents. The language model may learn."""
    backbone, head, recipe = learner.backbone, learner.head, learner.recipe
    opened = torch.tensor([[*prompt_ids, backbone.begin_id]], device=backbone.device)
    with torch.set_grad_enabled(learner.language_learns):
        opened_1TD = backbone.embed(opened)
        cache = DynamicCache(config=backbone.model.config.text_config)
        hidden = backbone.hidden(opened_1TD, cache=cache)[:, -1]
    latents = []
    for target_D in targets_KD:
        latent = head(hidden)
        latents.append(latent)
        fed = target_D[None] if forced else latent.detach()
        with torch.set_grad_enabled(learner.language_learns):
            hidden = backbone.hidden(fed[None], cache=cache)[:, -1]
    latents_KD = torch.cat(latents)
    labels = torch.tensor([backbone.end_id, *answer_ids], device=backbone.device)
    with torch.set_grad_enabled(learner.language_learns):
        closing_TD = backbone.embed(labels)
    whole = torch.cat([opened_1TD[0], latents_KD.to(closing_TD.dtype), closing_TD])[None]
    hidden_TD = backbone.hidden(whole)[0]
    first = opened.shape[1] + len(latents_KD) - 1
    answer = F.cross_entropy(backbone.logits(hidden_TD[first : first + len(labels)]).float(), labels)
    alignment = (latents_KD - targets_KD).square().mean(dim=1).mean()
    return recipe.align_weight * alignment + recipe.answer_weight * answer
