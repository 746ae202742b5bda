"""How latents are produced: one loop for training and inference, and one parallel pass for teacher forcing.

A rollout starts from the prompt and the begin token. `unroll` feeds every predicted latent back, detached, with a
key-value cache: the paper's student forcing, and its inference. `teacher` feeds the true latents, all at once.
`answer_pass` reads question, latents, end token and answer in one pass without a cache: there answers get their loss.

Shapes: B rows, P prompt tokens (padded on the left), K latents, D embedding width, A answer tokens, T positions of a
joined sequence, V vocabulary.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from rottrain.backbone import Backbone
from rottrain.batches import Batch
from rottrain.losses import IGNORED

Gradient = Literal["head", "through-cache", "own-step"]
"""What a rollout's latents are differentiable in: the head alone; the language model too, back through the cache of
earlier steps; or the language model at each latent's own step only."""


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A student rollout, and the state from which the answer continues."""

    latents_BKD: Tensor
    """Predicted latents, with gradient where asked for. The last one has not been fed back."""
    cache: Cache
    mask_BT: Tensor
    """Attention mask of what the cache holds: prompt, begin token, K - 1 latents."""


def unroll(
    backbone: Backbone, head: nn.Module, prompt_ids_BP: Tensor, prompt_mask_BP: Tensor, num_latents: int, *,
    gradient: Gradient = "head",
) -> Unrolled:  # fmt: skip
    """Predict `num_latents` latents, feeding each back detached. Prompts are padded on the left."""
    trains_lm = gradient != "head"
    hidden_steps: list[Tensor] = []
    with contextlib.nullcontext() if trains_lm else torch.no_grad():
        prompt_BTD, mask_BT = _open_prompt(backbone, prompt_ids_BP, prompt_mask_BP)
        positions_BT = (mask_BT.long().cumsum(dim=1) - 1).clamp(min=0)
        cache: Cache = DynamicCache(config=backbone.model.config.text_config)
        hidden_BTD = backbone.hidden(prompt_BTD, mask_BT=mask_BT, positions_BT=positions_BT, cache=cache)
        position_B1 = positions_BT[:, -1:]
        hidden_steps.append(hidden_BTD[:, -1])
        for _ in range(num_latents - 1):
            if gradient == "own-step":
                _detach_cache(cache)
            with torch.no_grad():
                fed_B1D = head(hidden_steps[-1])[:, None]
            position_B1 = position_B1 + 1
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)
            hidden_BTD = backbone.hidden(fed_B1D, mask_BT=mask_BT, positions_BT=position_B1, cache=cache)
            hidden_steps.append(hidden_BTD[:, -1])
    return Unrolled(latents_BKD=head(torch.stack(hidden_steps, dim=1)), cache=cache, mask_BT=mask_BT)


def student(backbone: Backbone, head: nn.Module, batch: Batch, *, gradient: Gradient = "head") -> Tensor:
    """Latents predicted from the model's own earlier predictions: batch -> [B, K, D]."""
    steps = batch["targets_BKD"].shape[1]
    prompt = batch["prompt_ids_BP"], batch["prompt_mask_BP"]
    return unroll(backbone, head, *prompt, steps, gradient=gradient).latents_BKD


def teacher(backbone: Backbone, head: nn.Module, batch: Batch, *, gradient: Gradient = "head") -> Tensor:
    """Latents predicted from the true earlier latents, in one pass: batch -> [B, K, D]."""
    targets_BKD = batch["targets_BKD"]
    with contextlib.nullcontext() if gradient != "head" else torch.no_grad():
        joined = join(backbone, batch, targets_BKD[:, :-1], answer=False)
        hidden_BTD = backbone.hidden(joined.inputs_BTD)
    return head(window(hidden_BTD, joined.begin_B1, targets_BKD.shape[1]))


@dataclass(frozen=True, slots=True)
class Joined:
    """Rows of prompt, begin token, latents and perhaps end token and answer, without gaps, padded on the right."""

    inputs_BTD: Tensor
    begin_B1: Tensor
    """Position of the begin token: latent k (from 0) stands at begin + 1 + k and is predicted at begin + k."""
    end_B1: Tensor
    """Position of the end token, or of the first padding where there is none."""


def join(backbone: Backbone, batch: Batch, latents_BKD: Tensor, *, answer: bool) -> Joined:
    """Put the parts of each row one after the other, with as many latents as its targets have, if there are so many.

    Padding on the right is never seen by causal attention, so such rows need no mask.
    """
    device = latents_BKD.device
    prompt_mask = batch["prompt_mask_BP"]
    counts_B1 = batch["targets_mask_BK"].sum(dim=1, keepdim=True).clamp(max=latents_BKD.shape[1])
    begin_B1 = prompt_mask.sum(dim=1, keepdim=True)
    end_B1 = begin_B1 + 1 + counts_B1
    prompt_BTD, prompt_mask_BT = _open_prompt(backbone, batch["prompt_ids_BP"], prompt_mask)
    latents_mask_BK = torch.arange(latents_BKD.shape[1], device=device) < counts_B1
    parts, masks = [prompt_BTD, latents_BKD.to(prompt_BTD.dtype)], [prompt_mask_BT, latents_mask_BK]
    if answer:
        rows = len(prompt_mask)
        end_BT = torch.full((rows, 1), backbone.end_id, device=device)
        parts.append(backbone.embed(torch.cat([end_BT, batch["answer_ids_BA"]], dim=1)))
        masks.append(torch.cat([torch.ones_like(end_BT, dtype=torch.bool), batch["answer_mask_BA"]], dim=1))
    scattered_BTD, mask_BT = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
    # A stable sort by "is padding" moves every row's content to its left, in order.
    order_BT = (~mask_BT).long().argsort(dim=1, stable=True)[:, : int(mask_BT.sum(dim=1).max())]
    return Joined(take(scattered_BTD, order_BT), begin_B1, end_B1)


def answer_pass(backbone: Backbone, batch: Batch, latents_BKD: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of end token and answer, given the latents: ([B, A + 1, V], [B, A + 1]).

    Differentiable in the latents. Labels beyond a row's answer are ignored ones.
    """
    joined = join(backbone, batch, latents_BKD, answer=True)
    hidden_BTD = backbone.hidden(joined.inputs_BTD)
    answer_ids, answer_mask = batch["answer_ids_BA"], batch["answer_mask_BA"]
    end = torch.full_like(answer_ids[:, :1], backbone.end_id)
    labels = torch.cat([end, answer_ids.masked_fill(~answer_mask, IGNORED)], dim=1)
    return backbone.logits(window(hidden_BTD, joined.end_B1 - 1, labels.shape[1])), labels


def window(values_BTD: Tensor, start_B1: Tensor, length: int) -> Tensor:
    """values[b, start[b] : start[b] + length] -> [B, length, D]; past a row's end its last value is repeated."""
    index_BS = start_B1 + torch.arange(length, device=values_BTD.device)
    return take(values_BTD, index_BS.clamp(max=values_BTD.shape[1] - 1))


def take(values_BTD: Tensor, index_BS: Tensor) -> Tensor:
    """values[b, index[b, s]] -> [B, S, D]."""
    return values_BTD.gather(1, index_BS[..., None].expand(-1, -1, values_BTD.shape[-1]))


def _open_prompt(backbone: Backbone, ids_BP: Tensor, mask_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt and begin token as embeddings, with their mask."""
    begin = torch.full_like(ids_BP[:, :1], backbone.begin_id)
    mask = torch.cat([mask_BP, torch.ones_like(mask_BP[:, :1])], dim=1)
    return backbone.embed(torch.cat([ids_BP, begin], dim=1)), mask


def _detach_cache(cache: Cache) -> None:
    """Cut the gradient through what the cache holds."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
