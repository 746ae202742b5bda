"""A model folder of tiny's architecture with random fp32 weights: what tests use where trained weights don't matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rottrain.training.tiny import tiny_config, tiny_tokenizer

INITIALIZER_RANGE = 0.05
"""Above the usual 0.02, with which attention is so nearly uniform that a wrong one would pass for right."""


def save_tiny(folder: Path, *, seed: int = 0, **vision: Any) -> Path:
    """Write configuration, tokenizer and weights drawn with `seed` to `folder`; `vision` changes the tower."""
    from transformers import Qwen3VLForConditionalGeneration

    config = tiny_config()
    config.text_config.initializer_range = INITIALIZER_RANGE
    for name, value in ({"initializer_range": INITIALIZER_RANGE} | vision).items():
        setattr(config.vision_config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
