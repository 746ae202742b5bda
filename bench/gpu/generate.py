"""generate: latents and a short answer against reasoning in words, one question and many; eager, and from CUDA graphs.

A language model of Qwen3-VL-4B's true shape with random weights in bf16, whose replies never end by themselves. The
paper, on its own card and model: 1.75 s a question in 32 latents, 6.41 s in 108.4 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.gpu.graphs import Stepper, compile_parts
from bench.gpu.job import Job
from bench.models import language_model, untrained
from rottrain.generation import generate
from rottrain.generation.generate import Generation, RoT
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.glyph_probe import OTHER, Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead

_QUESTION = "Natalia sold clips to {} of her friends, and then half as many in May. How many clips did she sell?"
_ALPHABET = Alphabet("".join(map(chr, range(33, 127))), 6)


def run(job: Job) -> None:
    """Eager at every batch, then graphs, then graphs of compiled layers."""
    _ = job.memory_bytes_s
    rot = _random(job)
    weights = sum(value.nbytes for value in rot.backbone.model.parameters())
    for count in job.size.batches:
        questions = [_QUESTION.format(number) for number in range(10, 10 + count)]
        job.measure(f"words, batch {count}", partial(_words, job, rot, questions, weights), needs=2)
        for feedback in ("latent", "picture"):
            job.measure(
                f"{feedback} feedback, batch {count}", partial(_latents, job, rot, questions, feedback, weights)
            )
    for compiled in (False, True) if job.on_gpu else (False,):
        for count in job.size.batches:
            name = f"{'compiled, ' if compiled else ''}CUDA graph, batch {count}"
            job.measure(
                name, partial(_graphed, job, rot, count, weights, compiled=compiled), needs=40 if compiled else 2
            )


def _random(job: Job) -> RoT:
    """A model that thinks and speaks without sense and without end."""
    backbone = language_model(job.size.languages[0], device=job.device, dtype=torch.bfloat16)
    backbone.eos_id = -1  # never produced: a reply has as many tokens as it may have
    torch.manual_seed(0)
    head = ProjectionHead(width_in=backbone.width, width_out=backbone.width, hidden=None, activation="swiglu")
    config = replace(untrained(backbone, head).config, context="latent")
    probe, book = _reading(backbone, job.size.pages)
    return RoT(backbone, head.to(job.device).eval(), config, probe.to(job.device), book.to(job.device))


def _reading(backbone: Backbone, pages: int) -> tuple[GlyphProbe, Book]:
    """A probe that always reads the same characters, so that no thought ends, and a book that has them among others."""
    probe = GlyphProbe(backbone.width, _ALPHABET).eval().requires_grad_(requires_grad=False)
    bias_SC = probe.leave.bias.view(_ALPHABET.slots, _ALPHABET.classes)
    bias_SC[:, OTHER + 1] = 1e4
    generator = torch.Generator().manual_seed(0)
    classes_NS = torch.randint(OTHER + 1, _ALPHABET.classes, (pages, _ALPHABET.slots), generator=generator)
    classes_NS[0] = OTHER + 1
    return probe, Book(_ALPHABET, classes_NS, 0.5 * torch.randn(pages, backbone.width, generator=generator))


def _words(job: Job, rot: RoT, questions: list[str], weights: int) -> Mapping[str, Any]:
    steps = job.size.words + job.size.said
    made: list[Generation] = []

    def call() -> None:
        made[:] = generate.in_words(rot.backbone, questions, batch_size=len(questions), max_tokens=steps)

    seconds = job.seconds(call, rounds=3, at_most_s=15)
    return _figures(job, seconds, len(questions), steps, weights) | {"tokens": made[0].answer_tokens}


def _latents(job: Job, rot: RoT, questions: list[str], feedback: Any, weights: int) -> Mapping[str, Any]:
    made: list[Generation] = []

    def call() -> None:
        made[:] = rot.generate(
            questions, budget=job.size.latents, feedback=feedback, batch_size=len(questions),
            max_answer_tokens=job.size.said,
        )  # fmt: skip

    seconds = job.seconds(call, rounds=3, at_most_s=10)
    spent = made[0].timings
    return _figures(job, seconds, len(questions), job.size.latents + job.size.said, weights) | {
        "latents": made[0].reasoning_tokens,
        "tokens": made[0].answer_tokens,
        **{name: round(value, 5) for name, value in vars(spent).items()},
    }


@torch.inference_mode()
def _graphed(job: Job, rot: RoT, count: int, weights: int, *, compiled: bool) -> Mapping[str, Any]:
    """The same thoughts and words from one captured step, and how near they are to the loop's latents."""
    if compiled:
        compile_parts(rot.backbone)
    questions = [_QUESTION.format(number) for number in range(10, 10 + count)]
    read = rot._read  # noqa: SLF001 -- the prompt as `generate` reads it
    prompt = read(questions)
    size, closing = job.size, rot._closing  # noqa: SLF001
    steps = max(size.latents, size.words + size.said)
    capacity = prompt.mask_BT.shape[1] + size.latents + size.words + size.said + len(closing) + 1
    stepper = Stepper(rot.backbone, rot.head, rows=count, capacity=capacity, steps=steps)
    expected = rot.think(prompt, questions, size.latents)[0].latents_BKD
    found = stepper.latents(prompt, size.latents)

    def think() -> None:
        stepper.latents(read(questions), size.latents)
        stepper.feed(closing)
        stepper.more_tokens(size.said).tolist()

    def speak() -> None:
        stepper.tokens(read(questions), size.words + size.said).tolist()

    thought_s, said_s = (job.seconds(call, rounds=3, at_most_s=8) for call in (think, speak))
    return {
        "latents": _figures(job, thought_s, count, size.latents + len(closing) + size.said, weights),
        "words": _figures(job, said_s, count, size.words + size.said, weights),
        "difference_in_norm": round(float((found - expected).norm() / expected.norm()), 5),
    }


def _figures(job: Job, seconds: float, questions: int, steps: int, weights: int) -> dict[str, Any]:
    """Seconds, and what share of them it takes to read every weight once a position: the least there is at batch 1."""
    return {
        "seconds_a_question": round(seconds / questions, 5),
        "ms_a_position": round(1000 * seconds / steps, 3),
        "least_share": round(steps * weights / job.memory_bytes_s / seconds, 4),
        "peak_gib": job.peak_gib(),
    }
