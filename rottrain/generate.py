"""Question -> latents -> answer, in batches: latents and answer both with a key-value cache.

Shapes: B questions, K latents, D embedding width, T positions: of what is fed, or of the cache and what is fed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rotdata.errors import CheckpointError, UsageError
from rotdata.models import find_model
from rottrain import checkpoints
from rottrain.backbone import Backbone
from rottrain.batches import pad_ids
from rottrain.config import Precision
from rottrain.glyphs import GlyphProbe
from rottrain.head import ProjectionHead
from rottrain.precision import load_backbone
from rottrain.rollout import Prompt, read_prompt, unroll

if TYPE_CHECKING:
    from transformers import Cache

DEFAULT_BUDGET = 32
MAX_ANSWER_TOKENS = 64
MAX_COT_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What the model made of one question."""

    question: str
    reply: str
    """The text after the latents: answer mark and answer. In words, the whole chain of thought before them."""
    reasoning_tokens: int
    """Latents spent; in words, the tokens before the answer mark, or all of them if there is none."""
    seconds: float
    """Its share of the batch's time."""
    latents_KD: Tensor | None = None
    """[K, D] on the CPU in fp32; None where the reasoning was in words or absent."""


class RoT:
    """A trained checkpoint on its base model: `RoT.from_pretrained(folder).generate([question], budget=32)`."""

    def __init__(
        self,
        backbone: Backbone,
        head: ProjectionHead,
        config: checkpoints.CheckpointConfig,
        glyphs: GlyphProbe | None = None,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.config = config
        self.glyphs = glyphs

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, model: str | None = None, precision: Precision = "auto") -> RoT:
        """Load a finished checkpoint and its base model, or `model` where that lies elsewhere now.

        Raises CheckpointError if the two don't belong together.
        """
        folder = Path(folder)
        config = checkpoints.load_config(folder)
        model = model or config.model
        head = checkpoints.load_head(folder, config)
        backbone = load_backbone(find_model(model), precision)
        if backbone.width != head.width_in:
            raise CheckpointError(
                f"{folder} was trained on a model of width {head.width_in}, {model} has {backbone.width}: "
                f"name the right one, {config.model}, with --model"
            )
        head.to(backbone.device).eval().requires_grad_(requires_grad=False)
        checkpoints.check_backbone(folder, config, backbone)
        checkpoints.load_learnt(folder, config, backbone)
        glyphs = checkpoints.load_probe(folder, config)
        return cls(backbone, head, config, None if glyphs is None else glyphs.to(backbone.device))

    def generate(
        self,
        questions: Sequence[str],
        *,
        budget: int | None = None,
        stop: float | None = None,
        batch_size: int = 16,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[Generation]:
        """Think `budget` latents about each question, then answer, greedily; in the order of the questions.

        By default the budget is the one it was trained on, or 32. With `stop`, each question's thinking ends at the
        first latent that is the last with more than this probability, at the budget at the latest. Raises UsageError,
        and CheckpointError for a checkpoint that has not learnt to stop.
        """
        budget = (self.config.budget or DEFAULT_BUDGET) if budget is None else budget
        if budget < 1:
            raise UsageError(f"the budget is at least 1 latent, got {budget}")
        if stop is not None:
            self._check_stop(stop)
        done: list[Generation] = []
        for batch in _batches(questions, batch_size):
            done += self._generate_batch(batch, budget, stop, max_answer_tokens)
        return done

    def answer(
        self,
        questions: Sequence[str],
        latents: Sequence[Tensor],
        *,
        hidden: Literal["none", "latents"] = "none",
        batch_size: int = 16,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[Generation]:
        """Answer each question from the latents [K, D] that are given for it, as `generate` does from its own.

        K may differ, and may be 0. Hidden latents keep their places, but the answer can't attend to them. Raises
        UsageError for latents that don't fit.
        """
        if len(latents) != len(questions):
            raise UsageError(f"each question is answered from its own latents: {len(questions)} against {len(latents)}")
        width = self.backbone.width
        if strange := [tuple(given.shape) for given in latents if given.ndim != 2 or given.shape[1] != width]:
            raise UsageError(f"latents of this model have the shape [K, {width}], got {strange[0]}")
        rest = iter(latents)
        done: list[Generation] = []
        for batch in _batches(questions, batch_size):
            done += self._answer_batch(batch, list(islice(rest, len(batch))), hidden, max_answer_tokens)
        return done

    def _check_stop(self, stop: float) -> None:
        if not 0 < stop < 1:
            raise UsageError(f"a stop is a probability between 0 and 1, got {stop}")
        if not self.config.run["recipe"].get("halt_weight"):
            raise CheckpointError(
                "this checkpoint has not learnt to stop: give a fixed budget, or train with --halt-weight"
            )

    @cached_property
    def base(self) -> Backbone:
        """The model before it was trained; loaded anew if its own weights have changed."""
        if not self.backbone.trains_language:
            return self.backbone
        trained = self.backbone
        return Backbone.load(
            trained.folder, dtype=trained.dtype, device=trained.device.type, arithmetic=trained.arithmetic
        )

    @torch.inference_mode()
    def _generate_batch(
        self, questions: list[str], budget: int, stop: float | None, max_answer_tokens: int
    ) -> list[Generation]:
        started = time.perf_counter()
        prompt = self._read(questions)
        ends = None if stop is None else lambda hidden_BD: self.head.is_last(hidden_BD).sigmoid() > stop
        thought = unroll(self.backbone, self.head, prompt, budget, stop=ends)
        mask = thought.mask_after(prompt, 1)
        inputs_BTD = self._closed(thought.latents_BKD[:, -1:])
        replies = continue_greedily(
            self.backbone, inputs_BTD, mask, positions_of(mask, 2), thought.cache, max_answer_tokens
        )
        latents, counts = thought.latents_BKD.float().cpu(), thought.counts_B.tolist()
        return self._generations(
            questions,
            replies,
            [row_KD[:count] for row_KD, count in zip(latents, counts, strict=True)],
            time.perf_counter() - started,
        )

    @torch.inference_mode()
    def _answer_batch(
        self,
        questions: list[str],
        latents: list[Tensor],
        hidden: Literal["none", "latents"],
        max_answer_tokens: int,
    ) -> list[Generation]:
        backbone = self.backbone
        started = time.perf_counter()
        prompt = self._read(questions)
        counts_B1 = torch.tensor([[len(given_KD)] for given_KD in latents], device=backbone.device)
        given_BKD = pad_sequence([given_KD.to(backbone.device) for given_KD in latents], batch_first=True)
        latents_BK = torch.arange(given_BKD.shape[1], device=backbone.device) < counts_B1
        mask = torch.cat([prompt.mask_BT, latents_BK, torch.ones_like(latents_BK[:, :1])], dim=1)
        inputs_BTD, positions = self._closed(given_BKD), positions_of(mask, given_BKD.shape[1] + 1)
        if hidden == "latents":  # what nothing attends to need not be read
            inputs_BTD, positions = inputs_BTD[:, -1:], positions[:, -1:]
            mask, _ = prompt.continued(1)
        replies = continue_greedily(backbone, inputs_BTD, mask, positions, prompt.fork(), max_answer_tokens)
        kept = [given_KD.float().cpu() for given_KD in latents]
        return self._generations(questions, replies, kept, time.perf_counter() - started)

    def _read(self, questions: list[str]) -> Prompt:
        return read_prompt(self.backbone, *_prompts(self.backbone, questions, prefill=""))

    def _closed(self, latents_BKD: Tensor) -> Tensor:
        """Latents, and the end token after them."""
        end_B1 = torch.full((len(latents_BKD), 1), self.backbone.end_id, device=self.backbone.device)
        return torch.cat([latents_BKD.to(self.backbone.dtype), self.backbone.embed(end_B1)], dim=1)

    def _generations(
        self, questions: list[str], replies: list[list[int]], latents: list[Tensor], seconds: float
    ) -> list[Generation]:
        """What a batch that took `seconds` made."""
        return [
            Generation(
                question=question,
                reply=self.backbone.decode(reply),
                reasoning_tokens=len(thought_KD),
                seconds=seconds / len(questions),
                latents_KD=thought_KD,
            )
            for question, reply, thought_KD in zip(questions, replies, latents, strict=True)
        ]


def in_words(
    backbone: Backbone, questions: Sequence[str], *, batch_size: int = 16, max_tokens: int = MAX_COT_TOKENS
) -> list[Generation]:
    """Reason in text, with the model as it stands: its reply is chain of thought, answer mark, answer."""
    return _text_replies(backbone, questions, prefill="", batch_size=batch_size, max_tokens=max_tokens)


def at_once(
    backbone: Backbone, questions: Sequence[str], *, batch_size: int = 16, max_tokens: int = MAX_ANSWER_TOKENS
) -> list[Generation]:
    """Answer without any reasoning, with the model as it stands: its reply is made to start with the answer mark."""
    prefill = backbone.prompt.answer_mark
    return _text_replies(backbone, questions, prefill=prefill, batch_size=batch_size, max_tokens=max_tokens)


@torch.inference_mode()
def _text_replies(
    backbone: Backbone, questions: Sequence[str], *, prefill: str, batch_size: int, max_tokens: int
) -> list[Generation]:
    from transformers import DynamicCache

    done: list[Generation] = []
    for batch in _batches(questions, batch_size):
        started = time.perf_counter()
        ids, mask = _prompts(backbone, batch, prefill=prefill)
        cache = DynamicCache(config=backbone.model.config.text_config)
        replies = continue_greedily(
            backbone, backbone.embed(ids), mask, positions_of(mask, ids.shape[1]), cache, max_tokens
        )
        seconds = (time.perf_counter() - started) / len(batch)
        for question, reply in zip(batch, replies, strict=True):
            text = prefill + backbone.decode(reply)
            thought, answered, _ = text.rpartition(backbone.prompt.answer_mark.strip())
            if not answered:  # it was still reasoning when it ended
                thought = text
            done.append(
                Generation(
                    question=question,
                    reply=text,
                    reasoning_tokens=len(backbone.text_ids(thought)) if thought else 0,
                    seconds=seconds,
                )
            )
    return done


def _prompts(backbone: Backbone, questions: Sequence[str], *, prefill: str) -> tuple[Tensor, Tensor]:
    """Prompts, with the start of the reply where one is given, padded on the left."""
    given = backbone.text_ids(prefill) if prefill else []
    rows = [backbone.prompt_ids(question) + given for question in questions]
    ids, mask = pad_ids(rows, backbone.pad_id, side="left")
    return ids.to(backbone.device), mask.to(backbone.device)


def continue_greedily(
    backbone: Backbone,
    inputs_BTD: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: Cache,
    max_tokens: int,
) -> list[list[int]]:
    """Feed `inputs_BTD` after what the cache holds and decode greedily: each row's token ids, without the end.

    `mask` is of what the cache holds and of the inputs, `positions` are those of the inputs.
    """
    replies: list[list[int]] = [[] for _ in range(len(inputs_BTD))]
    open_rows = set(range(len(replies)))
    for _ in range(max_tokens):
        hidden = backbone.hidden(inputs_BTD, mask_BT=mask, positions_BT=positions, cache=cache)
        tokens = backbone.logits(hidden[:, -1]).argmax(dim=-1)
        for row, token in enumerate(tokens.tolist()):
            if row in open_rows:
                if token == backbone.eos_id:
                    open_rows.discard(row)
                else:
                    replies[row].append(token)
        if not open_rows:
            break
        inputs_BTD = backbone.embed(tokens)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return replies


def positions_of(mask: Tensor, count: int) -> Tensor:
    """Positions of the last `count` of what a mask covers: [B, count]."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -count:]


def _batches(questions: Sequence[str], size: int) -> list[list[str]]:
    if size < 1:
        raise UsageError(f"the batch size is at least 1, got {size}")
    rest = iter(questions)
    return list(iter(lambda: list(islice(rest, size)), []))
