"""How large everything is: `full` for a GPU, `tiny` to try the same code on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the parts are done with."""

    tower: str
    """Shape of the vision tower, of bench.models.SHAPES."""
    languages: tuple[str, ...]
    """Shapes of language models to train, most valuable first; the first one generates, too."""
    rounds: int
    """That a call is timed, at most."""
    matrix: int
    """Side of the matrices whose product is the limit."""
    copied: int
    """Bytes of the copy whose rate is a limit."""
    smoke_rows: int
    smoke_steps: int
    rows: int
    """Chains of thought to embed."""
    rows_per_shard: int
    patches: int
    """Of the call that kernels and towers are compared on."""
    alone: int
    """Pictures of the baseline that takes one a call."""
    batch: int
    prompt: int
    latents: int
    answer: int
    """Tokens and latents of a row in training."""
    loop_rows: int
    """Rows of a step that the loop of one sample and one latent at a time is timed on."""
    sweeps: int
    batches: tuple[int, ...]
    """Questions answered together."""
    words: int
    """Tokens of reasoning in words: the paper's mean on GSM8k-Aug is 108."""
    said: int
    """Tokens of a short answer."""
    pages: int
    """Of the book that pictures are looked up in."""
    learn_rows: int
    learn_steps: tuple[int, int, int]
    """Of stage 1, stage 2 and each arm in words."""
    learn_batch: int
    questions: int
    arms_at_once: bool
    """Whether they train beside each other, each in processes of its own."""


SIZES: Mapping[str, Size] = {
    "full": Size(
        tower="qwen3-vl-4b", languages=("qwen3-vl-4b", "qwen3-vl-2b"), rounds=20, matrix=8192, copied=2 << 30,
        smoke_rows=16, smoke_steps=4, rows=7473, rows_per_shard=500, patches=32_768, alone=200,
        batch=16, prompt=64, latents=32, answer=6, loop_rows=2, sweeps=2, batches=(1, 32), words=108, said=8,
        pages=16_384, learn_rows=16_000, learn_steps=(400, 1000, 1400), learn_batch=16,
        questions=500, arms_at_once=True,
    ),
    "tiny": Size(
        tower="tiny", languages=("tiny",), rounds=1, matrix=64, copied=1 << 16,
        smoke_rows=2, smoke_steps=1, rows=6, rows_per_shard=4, patches=512, alone=2,
        batch=2, prompt=5, latents=3, answer=2, loop_rows=1, sweeps=1, batches=(2,), words=4, said=2,
        pages=8, learn_rows=24, learn_steps=(1, 1, 1), learn_batch=2, questions=2, arms_at_once=False,
    ),
}  # fmt: skip
