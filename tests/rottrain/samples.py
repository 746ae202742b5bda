"""Small models, heads and batches that several test modules need."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rottrain.data.batches import Batch, Collator, Example
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CONFIG
from rottrain.model.head import ProjectionHead

QUESTIONS = ("Ann has 3 figs.", "How many nuts are left when Ben sells 4 of his 9 nuts?", "2+2?", "Why")
ANSWERS = ("12", "7", "-1,234.5", "x")
COUNTS = (3, 5, 1, 4)
"""Latents of each example: unequal, and one of a single latent."""
SUMS = [
    {"question": f"What is {a} and {b}?", "cot": f"<<{a}+{b}={a + b}>> <<{a + b}*1={a + b}>>", "answer": str(a + b)}
    for a in range(4, 8)
    for b in range(4, 12)
]
"""Rows whose chains of thought are four latents in cells of 6."""


def random_head(width: int, *, seed: int = 1) -> ProjectionHead:
    """A head small enough to be quick, whose latents are about as large as embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ProjectionHead(width_in=width, width_out=width, hidden=24, activation="swiglu")


def random_examples(
    backbone: Backbone,
    *,
    counts: Sequence[int] = COUNTS,
    questions: Sequence[str] = QUESTIONS,
    answers: Sequence[str] = ANSWERS,
) -> list[Example]:
    """Examples of unequal lengths with random targets."""
    rng = np.random.default_rng(2)
    return [
        Example(
            id=str(row),
            prompt_ids=backbone.prompt_ids(question),
            targets_KD=rng.normal(scale=0.3, size=(count, backbone.width)).astype(np.float32),
            answer_ids=backbone.answer_ids(answer),
        )
        for row, (count, question, answer) in enumerate(zip(counts, questions, answers, strict=False))
    ]


def as_batch(backbone: Backbone, examples: Sequence[Example]) -> Batch:
    """Examples, padded."""
    return Collator(backbone.pad_id)(examples)


def wake_adapter(backbone: Backbone, *, scale: float = 0.05) -> None:
    """Give an adapter's second matrices, which start at zero, random values: without them it does nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in backbone.model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * scale)


def full_pass(backbone: Backbone, inputs_TD: Tensor) -> Tensor:
    """One sequence through the language model, without cache, mask or padding: [T, D] -> [T, D]."""
    model = backbone.model.model.language_model
    return model(inputs_embeds=inputs_TD[None], use_cache=False).last_hidden_state[0]


def token_inputs(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """Input embeddings of token ids: [T, D]."""
    return backbone.embed(torch.tensor(list(ids)))


def terminate() -> None:
    """Ask this process to stop."""
    signal.raise_signal(signal.SIGTERM)


def copy_model(folder: Path, to: Path, **config: Any) -> Path:
    """A copy of a model's folder that a test may change, with some values of its config.json replaced."""
    shutil.copytree(folder, to)
    file = to / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


def without_hashes(folder: Path, **changes: Any) -> Path:
    """Make a checkpoint one of an earlier release, which kept no hashes, with some values of its config replaced."""
    file = folder / CONFIG
    content = json.loads(file.read_text()) | {"format_version": 2}
    for name in ("files", "checksum"):
        content.pop(name, None)
    file.write_text(json.dumps(content | changes))
    return folder


def save_variant(folder: Path, *, tied: bool = True, vocab_size: int = 384, width: int = 192) -> Path:
    """A random model like tests.tinymodel's, with its own output head, fewer token rows, or another width."""
    from transformers import Qwen3VLForConditionalGeneration

    from rottrain.training.tiny import tiny_config, tiny_tokenizer

    config = tiny_config()
    config.text_config.vocab_size = vocab_size
    config.text_config.hidden_size = config.vision_config.out_hidden_size = width
    config.tie_word_embeddings = tied
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
