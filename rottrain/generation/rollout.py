"""How latents are produced: one loop for training and inference, and parallel sweeps over all latents at once.

A rollout starts from a prompt that was read once, up to the begin token. `unroll` feeds every predicted latent back,
detached, with a key-value cache: the paper's student forcing, and its inference. `sweep` predicts all latents in one
pass from latents that are given: from the true ones that is teacher forcing, from its own predictions, again and
again, a Jacobi iteration whose first latents are the student's, one more with each sweep. `answer_pass` reads latents,
end token and answer after the same prompt: there answers get their loss.

Shapes: B rows, P prompt tokens (padded on the left), K latents, D embedding width, A answer tokens, T positions of a
joined sequence, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Cache

from rottrain.data.batches import IGNORED, Batch
from rottrain.model import caches
from rottrain.model.backbone import Backbone

Gradient = Literal["head", "through-cache", "own-step"]
"""What a rollout's latents are differentiable in: the head alone; the language model too, back through the cache of
earlier steps; or the language model at each latent's own step only."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompts and begin token, read: what comes next continues from here, as often as it likes."""

    cache: Cache
    """Not to be extended: `fork` it."""
    mask_BT: Tensor
    """Attention mask of what the cache holds."""
    hidden_BD: Tensor
    """At the begin token: it predicts the first latent."""

    def fork(self) -> Cache:
        """A cache of the same content that may be extended."""
        return caches.fork(self.cache)

    def continued(self, length: int) -> tuple[Tensor, Tensor]:
        """Mask of the prompt and `length` more positions, and the numbers of these: [B, T + length], [B, length]."""
        rows = len(self.mask_BT)
        mask = torch.cat([self.mask_BT, self.mask_BT.new_ones(rows, length)], dim=1)
        first_B1 = self.mask_BT.sum(dim=1, keepdim=True)
        return mask, first_B1 + torch.arange(length, device=mask.device)


def read_prompt(backbone: Backbone, ids_BP: Tensor, mask_BP: Tensor, *, gradient: Gradient = "head") -> Prompt:
    """Read prompts, padded on the left, and the begin token after them."""
    with _gradient_in(gradient):
        begin = torch.full_like(ids_BP[:, :1], backbone.begin_id)
        mask_BT = torch.cat([mask_BP, torch.ones_like(mask_BP[:, :1])], dim=1)
        cache = backbone.new_cache()
        hidden_BTD = backbone.hidden(
            backbone.embed(torch.cat([ids_BP, begin], dim=1)),
            mask_BT=mask_BT,
            positions_BT=(mask_BT.long().cumsum(dim=1) - 1).clamp(min=0),
            cache=cache,
        )
    return Prompt(cache=cache, mask_BT=mask_BT, hidden_BD=hidden_BTD[:, -1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """Latents with gradient where asked for, and the hidden states that they were predicted from."""

    latents_BKD: Tensor
    hidden_BKD: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Unrolled(Predicted):
    """A student rollout, and the state from which the answer continues. The last latent has not been fed back."""

    fed_BKD: Tensor
    """What the model continues from and answers from: the latents themselves, or what `feedback` made of them."""
    cache: Cache
    counts_B: Tensor
    """Latents of each row before it stopped: K, unless rows may stop."""

    def mask_after(self, prompt: Prompt, more: int) -> Tensor:
        """Attention mask of prompt, latents and `more` positions; it hides latents of rows that had stopped."""
        latents_BK = torch.arange(self.fed_BKD.shape[1], device=self.counts_B.device) < self.counts_B[:, None]
        return torch.cat([prompt.mask_BT, latents_BK, latents_BK.new_ones(len(latents_BK), more)], dim=1)


Stop = Callable[[Tensor], Tensor]
"""Hidden states [B, D] -> whether the latents predicted from them are their rows' last, [B]."""
Feedback = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Predicted latents [B, D] -> those to continue from, [B, D], and whether they say nothing, so that the rows ended."""
_LOOKS_EVERY = 8
"""Steps after which a GPU is asked whether all rows have ended; asking makes it wait."""


def unroll(
    backbone: Backbone,
    head: nn.Module,
    prompt: Prompt,
    num_latents: int,
    *,
    gradient: Gradient = "head",
    stop: Stop | None = None,
    feedback: Feedback | None = None,
) -> Unrolled:
    """Predict `num_latents` latents, feeding each back detached; fewer if all rows have stopped.

    With `stop`, a row stops at the latent of which that says so; with `feedback`, before the first that says nothing.
    """
    hidden_steps = [prompt.hidden_BD]
    fed_steps: list[Tensor] = []
    cache = prompt.fork()
    mask_BT, positions_BK = prompt.continued(num_latents - 1)
    first = prompt.mask_BT.shape[1]
    counts_B = torch.full((len(prompt.hidden_BD),), num_latents, device=prompt.hidden_BD.device)
    looks_every = 1 if stop is not None or counts_B.device.type == "cpu" else _LOOKS_EVERY
    with _gradient_in(gradient):
        for step in range(num_latents):
            if stop is not None and step < num_latents - 1:
                counts_B = torch.where(stop(hidden_steps[-1]), counts_B.clamp(max=step + 1), counts_B)
            if feedback is not None:
                with torch.no_grad():
                    fed_BD, ended_B = feedback(head(hidden_steps[-1]))
                fed_steps.append(fed_BD)
                counts_B = torch.where(ended_B, counts_B.clamp(max=max(1, step)), counts_B)
            if step == num_latents - 1:
                break
            may_end = stop is not None or feedback is not None
            if may_end and step % looks_every == looks_every - 1 and int(counts_B.max()) <= step + 1:
                break
            if feedback is None:
                with torch.no_grad():
                    fed_BD = head(hidden_steps[-1])
            mask_BT[:, first + step] = counts_B > step  # what rows read after their last latent leaves no trace
            if gradient == "own-step":
                caches.detach(cache)
            hidden_B1D = backbone.hidden(
                fed_BD[:, None],
                mask_BT=mask_BT[:, : first + step + 1],
                positions_BT=positions_BK[:, step : step + 1],
                cache=cache,
            )
            hidden_steps.append(hidden_B1D[:, -1])
    hidden_BKD = torch.stack(hidden_steps, dim=1)
    latents_BKD = head(hidden_BKD)
    return Unrolled(
        latents_BKD=latents_BKD,
        fed_BKD=latents_BKD if feedback is None else torch.stack(fed_steps, dim=1),
        hidden_BKD=hidden_BKD,
        cache=cache,
        counts_B=counts_B,
    )


def sweep(
    backbone: Backbone, head: nn.Module, prompt: Prompt, given_BKD: Tensor, *, gradient: Gradient = "head"
) -> Predicted:
    """Predict all latents in one pass, each from the given ones before it.

    Rows may be padded on the right: causal attention never looks there.
    """
    mask_BT, positions_BK = prompt.continued(given_BKD.shape[1] - 1)
    with _gradient_in(gradient):
        hidden_BKD = prompt.hidden_BD[:, None]
        if given_BKD.shape[1] > 1:
            read_BKD = backbone.hidden(
                given_BKD[:, :-1], mask_BT=mask_BT, positions_BT=positions_BK, cache=prompt.fork()
            )
            hidden_BKD = torch.cat([hidden_BKD, read_BKD], dim=1)
    return Predicted(latents_BKD=head(hidden_BKD), hidden_BKD=hidden_BKD)


@torch.no_grad()
def iterate(backbone: Backbone, head: nn.Module, prompt: Prompt, start_BKD: Tensor, sweeps: int) -> Tensor:
    """What `sweeps` sweeps make of `start_BKD`, each over the predictions of the one before; without a gradient.

    The first `sweeps` latents are those of `unroll`, which makes all of them where there are no more: its steps of one
    latent each are cheaper than as many sweeps.
    """
    if sweeps >= (num_latents := start_BKD.shape[1]):
        return unroll(backbone, head, prompt, num_latents).latents_BKD.to(start_BKD.dtype)
    given_BKD = start_BKD
    for _ in range(sweeps):
        given_BKD = sweep(backbone, head, prompt, given_BKD).latents_BKD.to(start_BKD.dtype)
    return given_BKD


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught(Predicted):
    """One pass over prompts, true latents and answers: latents predicted from them, and the answer after them."""

    logits_BAV: Tensor
    """Of end token and answer, [B, A + 1, V]."""
    labels_BA: Tensor


def teach(backbone: Backbone, head: nn.Module, batch: Batch, given_BKD: Tensor, *, gradient: Gradient) -> Taught:
    """Teacher forcing of latents and answer in one pass.

    Each row reads its given latents up to its last that says something, then its answer; what is predicted after that
    last one is the blank latent that ends a thought.
    """
    answer_ids, answer_mask = batch["answer_ids_BA"], batch["answer_mask_BA"]
    counts_B1 = batch["last_B"][:, None] + 1
    begin_B1 = torch.full_like(batch["prompt_ids_BP"][:, :1], backbone.begin_id)
    end_B1 = torch.full_like(begin_B1, backbone.end_id)
    opening_BPD = backbone.embed(torch.cat([batch["prompt_ids_BP"], begin_B1], dim=1))
    closing_BAD = backbone.embed(torch.cat([end_B1, answer_ids], dim=1))
    rest_BTD = close_gaps(given_BKD.to(closing_BAD.dtype), counts_B1, closing_BAD)
    opened = opening_BPD.shape[1]
    mask_BP = torch.cat([batch["prompt_mask_BP"], batch["prompt_mask_BP"].new_ones(len(begin_B1), 1)], dim=1)
    mask_BT = torch.cat([mask_BP, mask_BP.new_ones(rest_BTD.shape[:2])], dim=1)
    with _gradient_in(gradient):
        hidden_BTD = backbone.hidden(
            torch.cat([opening_BPD, rest_BTD], dim=1),
            mask_BT=mask_BT,
            positions_BT=(mask_BT.long().cumsum(dim=1) - 1).clamp(min=0),
        )
        labels_BA = torch.cat([end_B1, answer_ids.masked_fill(~answer_mask, IGNORED)], dim=1)
        logits_BAV = backbone.logits(window(hidden_BTD[:, opened:], counts_B1 - 1, labels_BA.shape[1]))
    hidden_BKD = hidden_BTD[:, opened - 1 : opened - 1 + given_BKD.shape[1]]
    return Taught(latents_BKD=head(hidden_BKD), hidden_BKD=hidden_BKD, logits_BAV=logits_BAV, labels_BA=labels_BA)


def answer_pass(
    backbone: Backbone, prompt: Prompt, batch: Batch, latents_BKD: Tensor, counts_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits and labels of end token and answer, given the latents: ([B, A + 1, V], [B, A + 1]).

    `counts_B` says how many of its latents each row is given, at least one; by default all. Differentiable in the
    latents, and in the prompt if that is. Labels beyond a row's answer are ignored ones.
    """
    answer_ids, answer_mask = batch["answer_ids_BA"], batch["answer_mask_BA"]
    counts_B1 = (batch["targets_mask_BK"].sum(dim=1) if counts_B is None else counts_B)[:, None]
    end_B1 = torch.full_like(answer_ids[:, :1], backbone.end_id)
    closing_BAD = backbone.embed(torch.cat([end_B1, answer_ids], dim=1))
    joined_BTD = close_gaps(latents_BKD.to(closing_BAD.dtype), counts_B1, closing_BAD)
    mask_BT, positions_BT = prompt.continued(joined_BTD.shape[1])
    hidden_BTD = backbone.hidden(joined_BTD, mask_BT=mask_BT, positions_BT=positions_BT, cache=prompt.fork())
    labels = torch.cat([end_B1, answer_ids.masked_fill(~answer_mask, IGNORED)], dim=1)
    return backbone.logits(window(hidden_BTD, counts_B1 - 1, labels.shape[1])), labels


def close_gaps(first_BKD: Tensor, counts_B1: Tensor, second_BAD: Tensor) -> Tensor:
    """Each row's first `counts` vectors, then all of the second ones: [B, K + A, D]; at least one comes first.

    What stands behind a row's content is the end of its second part again, never looked at by causal attention.
    """
    rest = second_BAD.shape[1]
    index_BT = torch.arange(int(counts_B1.max()) + rest, device=counts_B1.device).expand(len(counts_B1), -1)
    second_BT = (index_BT - counts_B1).clamp(max=rest - 1) + first_BKD.shape[1]
    both_BTD = torch.cat([first_BKD, second_BAD], dim=1)
    return take(both_BTD, torch.where(index_BT < counts_B1, index_BT, second_BT))


def window(values_BTD: Tensor, start_B1: Tensor, length: int) -> Tensor:
    """values[b, start[b] : start[b] + length] -> [B, length, D]; past a row's end its last value is repeated."""
    index_BS = start_B1 + torch.arange(length, device=values_BTD.device)
    return take(values_BTD, index_BS.clamp(max=values_BTD.shape[1] - 1))


def take(values_BTD: Tensor, index_BS: Tensor) -> Tensor:
    """values[b, index[b, s]] -> [B, S, D]."""
    return values_BTD.gather(1, index_BS[..., None].expand(-1, -1, values_BTD.shape[-1]))


def _gradient_in(gradient: Gradient) -> contextlib.AbstractContextManager[object]:
    """The language model's part of a rollout, differentiable or not."""
    return torch.no_grad() if gradient == "head" else contextlib.nullcontext()
