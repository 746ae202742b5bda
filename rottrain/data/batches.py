"""Shard rows -> padded tensors. Knows shards and token ids; runs no model.

Shapes: B rows, P prompt tokens, K latents, D embedding width, A answer tokens, S character slots of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from rotdata.rendering.cells import characters_of, shown
from rotdata.rendering.style import StripStyle
from rotdata.shards import EmbeddingShards, Texts
from rotdata.shards.targets import Longer, TargetSettings, shorten
from rottrain.config import Fit
from rottrain.data.rows import RowReader, Selection, lengths_of_rows
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import NOTHING, Alphabet

IGNORED = -100
"""The label of a token that cross-entropy leaves out."""
_SAMPLED_QUESTIONS = 100


class Batch(TypedDict):
    """Tensors of one step. Prompts are padded on the left, everything else on the right."""

    ids: NotRequired[list[str]]
    """Of the rows; the Trainer takes them out."""
    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    targets_BKD: Tensor
    targets_mask_BK: Tensor
    last_B: Tensor
    """Index of the last latent that says something: what follows it is blank."""
    glyphs_BKS: NotRequired[Tensor]
    """Classes of the characters that each latent shows; where there is an alphabet."""
    answer_ids_BA: Tensor
    answer_mask_BA: Tensor
    rows_B: NotRequired[Tensor]
    """Numbers of the rows; where hidden states are kept."""
    hidden_BKD: NotRequired[Tensor]
    """What the latents are predicted from; where that is known of all rows. D of the language model."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as training needs it."""

    id: str
    prompt_ids: list[int]
    targets_KD: NDArray[np.floating[Any]]
    answer_ids: list[int]
    said: int | None = None
    """Latents before the blank ones; by default all."""
    glyphs_KS: NDArray[np.int64] | None = None
    row: int | None = None
    """Its number, where hidden states are kept."""
    hidden_KD: Tensor | None = None
    """Hidden states under teacher forcing, where they are known."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What becomes of a row's latents before they are learnt."""

    budget: int | None = None
    fit: Fit = "truncate"
    blank_D: NDArray[np.float32] | None = None
    """What pads a row to the budget, or, with `ends_blank`, what comes once after a row that is not cut."""
    ends_blank: bool = False
    alphabet: Alphabet | None = None
    style: StripStyle | None = None
    """Of pictures in cells, where latents are labelled by what is drawn in these and not by their text."""

    def count(self, num_latents: int) -> int:
        """The latents that a row of so many will have."""
        if self.ends_blank:
            num_latents += 1
        if self.budget is None:
            return num_latents
        return self.budget if self.blank_D is not None and not self.ends_blank else min(num_latents, self.budget)

    def example(self, example: Example, text: str, spans: Sequence[int] | None) -> Example:
        """A row of its strip's own latents as it will be learnt."""
        latents = example.targets_KD
        borders = None if spans is None else np.array(spans, dtype=np.int32)
        if self.budget is not None:
            longer: Longer = "resample" if self.fit == "resample" else "truncate"
            latents, borders = shorten(latents, borders, TargetSettings(max_latents=self.budget, longer=longer))
        said = len(latents)
        glyphs = self.labels(text, borders)
        if blanks := self._blanks(said):
            assert self.blank_D is not None
            blank = np.broadcast_to(self.blank_D, (blanks, latents.shape[1]))
            latents = np.concatenate([latents, blank.astype(latents.dtype)])
            if glyphs is not None:
                glyphs = np.pad(glyphs, ((0, blanks), (0, 0)), constant_values=NOTHING)
        return replace(example, targets_KD=latents, said=said, glyphs_KS=glyphs)

    def labels(self, text: str, spans: NDArray[np.int32] | None) -> NDArray[np.int64] | None:
        """Classes of what each latent of a row shows, [K, S]; None where that is not known."""
        if self.alphabet is None or spans is None:
            return None
        if self.style is None:
            return self.alphabet.labels(text, spans)
        return self.alphabet.labels_of_cells(shown(text, self.style)[: len(spans) - 1])

    def characters(self, text: str, spans: Sequence[int] | None, latent: int) -> set[str]:
        """What one latent of a row shows, as far as each of its cells shows one character."""
        if self.style is not None:
            return set(characters_of(shown(text, self.style)[latent]))
        return set() if spans is None else set(text[spans[latent] : spans[latent + 1]])

    def _blanks(self, said: int) -> int:
        """How many blank latents follow a row that says so many."""
        if self.blank_D is None:
            return 0
        if self.ends_blank:
            return int(self.budget is None or said < self.budget)
        return 0 if self.budget is None else max(0, self.budget - said)


_AS_IT_IS = Shape()


class ShardRows(Dataset[Example]):
    """Rows of embedding shards by number, as training needs them."""

    def __init__(self, selections: Sequence[Selection], backbone: Backbone, *, shape: Shape = _AS_IT_IS) -> None:
        self._reader = RowReader(selections, EmbeddingShards.read_group)
        self._backbone = backbone
        self._shape = shape

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Example:
        rows, row = self._reader.find(index)
        example = Example(
            id=rows.ids[row],
            prompt_ids=self._backbone.prompt_ids(rows.questions[row]),
            targets_KD=rows.embedding_LD[rows.offsets[row] : rows.offsets[row + 1]],
            answer_ids=self._backbone.answer_ids(rows.answers[row]),
        )
        return self._shape.example(example, rows.cots[row], rows.spans[row])

    def lengths(self) -> NDArray[np.float64]:
        """About how many positions each row takes: what rows of similar length are grouped by."""
        selections = self._reader.selections
        rate = tokens_a_character(self._backbone, selections)

        def length(texts: Texts, row: int) -> float:
            characters = len(texts.questions[row]) + len(texts.answers[row])
            return self._shape.count(texts.num_latents[row]) + rate * characters

        return lengths_of_rows(selections, length)


def tokens_a_character(backbone: Backbone, selections: Sequence[Selection]) -> float:
    """Of the first questions: enough to tell long rows from short ones without the others' tokens."""
    texts, _ = RowReader(selections, EmbeddingShards.read_texts).find(0)
    sample = "\n".join(texts.questions[:_SAMPLED_QUESTIONS])
    return len(backbone.text_ids(sample)) / max(1, len(sample))


@dataclass(frozen=True)
class Collator:
    """Pads examples into a Batch."""

    pad_id: int

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Pad prompts on the left, targets and answers on the right."""
        prompts, prompt_mask = pad_ids([example.prompt_ids for example in examples], self.pad_id, side="left")
        answers, answer_mask = pad_ids([example.answer_ids for example in examples], self.pad_id, side="right")
        lengths = [len(example.targets_KD) for example in examples]
        targets = torch.zeros(len(examples), max(lengths), examples[0].targets_KD.shape[1])
        for row, example in enumerate(examples):
            targets[row, : lengths[row]] = torch.from_numpy(example.targets_KD.astype(np.float32))
        said = [
            length if example.said is None else example.said for example, length in zip(examples, lengths, strict=True)
        ]
        batch = Batch(
            ids=[example.id for example in examples],
            prompt_ids_BP=prompts,
            prompt_mask_BP=prompt_mask,
            targets_BKD=targets,
            targets_mask_BK=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None],
            last_B=torch.tensor(said) - 1,
            answer_ids_BA=answers,
            answer_mask_BA=answer_mask,
        )
        glyphs = [example.glyphs_KS for example in examples if example.glyphs_KS is not None]
        if len(glyphs) == len(examples):
            batch["glyphs_BKS"] = torch.full((len(examples), max(lengths), glyphs[0].shape[1]), NOTHING)
            for row, classes in enumerate(glyphs):
                batch["glyphs_BKS"][row, : lengths[row]] = torch.from_numpy(classes)
        rows = [example.row for example in examples if example.row is not None]
        if len(rows) == len(examples):
            batch["rows_B"] = torch.tensor(rows)
        hidden = [example.hidden_KD for example in examples if example.hidden_KD is not None]
        if len(hidden) == len(examples):
            batch["hidden_BKD"] = pad_sequence(hidden, batch_first=True)
        return batch


def pad_ids(rows: Sequence[Sequence[int]], pad_id: int, *, side: str) -> tuple[Tensor, Tensor]:
    """Token ids of unequal length -> ids [B, T] and mask [B, T], padded on the "left" or "right"."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, where] = torch.tensor(row)
        mask[number, where] = True
    return ids, mask
