"""Fine-tuning in words: what a row teaches the base model to say, and the loss of a batch of it.

Prompts and replies are those that generate.py asks for and reads: `in_words` for the mode cot, `at_once` for no-cot.

Shapes: B rows, T positions of prompt and reply, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it
from torch.utils.data import Dataset

from rotdata.shards import EmbeddingShards, Texts
from rottrain.config import SftConfig, SftMode
from rottrain.data.batches import IGNORED, pad_ids
from rottrain.data.rows import RowReader, Selection, lengths_of_rows
from rottrain.model.backbone import Backbone
from rottrain.training.losses import mean_of_samples


class TextBatch(TypedDict):
    """Tensors of one step, padded on the right."""

    ids: NotRequired[list[str]]
    """Of the rows; the Trainer takes them out."""
    tokens_BT: Tensor
    labels_BT: Tensor
    """The reply's tokens where they stand, ignored ones elsewhere."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """One row in words."""

    id: str
    question: str
    answer: str
    given_ids: list[int]
    """Prompt, and the start of the reply where evaluation gives it."""
    taught_ids: list[int]
    """The rest of the reply and the end of sequence."""


class TextRows(Dataset[TextExample]):
    """Texts of shards by number; embeddings are not read."""

    def __init__(self, selections: Sequence[Selection], backbone: Backbone, mode: SftMode) -> None:
        self._reader = RowReader(selections, EmbeddingShards.read_texts)
        self._backbone = backbone
        self._mode = mode

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> TextExample:
        texts, row = self._reader.find(index)
        given, taught = taught_ids(
            self._backbone, self._mode, question=texts.questions[row], cot=texts.cots[row], answer=texts.answers[row]
        )
        return TextExample(texts.ids[row], texts.questions[row], texts.answers[row], given, taught)

    def lengths(self) -> NDArray[np.float64]:
        """Characters of each row: what rows of similar length are grouped by."""

        def length(texts: Texts, row: int) -> int:
            reasoning = len(texts.cots[row]) if self._mode == "cot" else 0
            return len(texts.questions[row]) + reasoning + len(texts.answers[row])

        return lengths_of_rows(self._reader.selections, length)


def taught_ids(
    backbone: Backbone, mode: SftMode, *, question: str, cot: str, answer: str
) -> tuple[list[int], list[int]]:
    """What is given of a row, and what is taught: cot teaches "CoT, new line, answer mark, answer", no-cot the answer.

    Its mark is given then, as evaluation gives it.
    """
    prompt = backbone.prompt_ids(question)
    if mode == "no-cot":
        return prompt + backbone.mark_ids, backbone.answer_ids(answer)[len(backbone.mark_ids) :]
    return prompt, [*backbone.text_ids(f"{cot}\n{backbone.prompt.answer_mark}{answer}"), backbone.eos_id]


@dataclass(frozen=True)
class TextCollator:
    """Pads examples into a TextBatch."""

    pad_id: int

    def __call__(self, examples: Sequence[TextExample]) -> TextBatch:
        """Pad on the right."""
        tokens_BT, _ = pad_ids([row.given_ids + row.taught_ids for row in examples], self.pad_id, side="right")
        labels = [[IGNORED] * len(row.given_ids) + row.taught_ids for row in examples]
        labels_BT, _ = pad_ids(labels, IGNORED, side="right")
        return TextBatch(ids=[row.id for row in examples], tokens_BT=tokens_BT, labels_BT=labels_BT)


class TextLearner(nn.Module):
    """A language model as a module whose forward pass is the loss of saying a batch's replies."""

    accepts_loss_kwargs = False  # the loss is a mean over the batch

    def __init__(self, backbone: Backbone, recipe: SftConfig) -> None:
        """What learns is what the backbone lets learn."""
        super().__init__()
        self.backbone = backbone
        self.language = backbone.model
        self.recipe = recipe

    def forward(self, tokens_BT: Tensor, labels_BT: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the replies, mean over rows of the mean over a reply's tokens."""
        hidden_BTD = self.backbone.hidden(self.backbone.embed(tokens_BT[:, :-1]))
        next_BT = labels_BT[:, 1:]
        said_BT = next_BT != IGNORED
        logits = self.backbone.logits(hidden_BTD[said_BT])
        losses_BT = torch.zeros(next_BT.shape, device=logits.device)
        losses_BT[said_BT] = F.cross_entropy(logits.float(), next_BT[said_BT], reduction="none")
        return {"loss": mean_of_samples(losses_BT, said_BT)}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}
