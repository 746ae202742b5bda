"""`python -m bench.tiny_scores [ROWS]`: what the embedded model can do on held-out toy problems; a JSON line a task."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rotdata.corpora.toy import ToyProblem, toy_problems
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import render
from rottrain.generation import generate
from rottrain.metrics import scoring
from rottrain.model.backbone import Backbone
from rottrain.training.tiny import READ_PROMPT, STYLES

MAX_TOKENS = 80


def main(rows: int) -> None:
    """Score all four tasks."""
    folder = find_model("tiny")
    backbone = Backbone.load(folder, dtype=torch.float32, device="cpu")
    problems = list(islice(toy_problems("test"), rows))
    questions = [problem.question for problem in problems]
    for name, made in (
        ("reasons in words", generate.in_words(backbone, questions, batch_size=64, max_tokens=120)),
        ("answers at once", generate.at_once(backbone, questions, batch_size=64)),
    ):
        right = [scoring.extract(each.reply) == problem.answer for each, problem in zip(made, problems, strict=True)]
        report(name, right, problems)
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    for style in STYLES:
        pictures = [render(problem.cot, style).pixels for problem in problems]
        latents = [torch.from_numpy(each) for each in encoder.encode(pictures)]
        score_strips(backbone, problems, latents, "default style" if style.cells is None else f"{style.cells} cells")


def score_strips(backbone: Backbone, problems: list[ToyProblem], latents: list[Tensor], style: str) -> None:
    """Score the two tasks that begin with strips."""
    read, answered = [], []
    for problem, each in zip(problems, latents, strict=True):
        read.append(transcribe(backbone, each) == problem.cot)
        opened = f"{backbone.prompt.prefix}{problem.question}{backbone.prompt.suffix}<|vision_start|>"
        reply = complete(backbone, opened, each, "<|vision_end|>")
        answered.append(scoring.extract(reply) == problem.answer)
    report(f"reads a strip, every character, {style}", read, problems)
    report(f"answers from the true strip, {style}", answered, problems)


def transcribe(backbone: Backbone, latents_KD: Tensor) -> str:
    """What the model reads in a strip."""
    opened = f"{backbone.prompt.prefix}<|vision_start|>"
    return complete(backbone, opened, latents_KD, f"<|vision_end|>{READ_PROMPT}{backbone.prompt.suffix}")


@torch.inference_mode()
def complete(backbone: Backbone, before: str, latents_KD: Tensor, after: str) -> str:
    """Greedy continuation of text, latents, text."""
    ids = [backbone.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    first, last = (backbone.embed(torch.tensor([each])) for each in ids)
    inputs = torch.cat([first, latents_KD[None], last], dim=1)
    cache = DynamicCache(config=backbone.model.config.text_config)
    tokens: list[int] = []
    for _ in range(MAX_TOKENS):
        token = int(backbone.logits(backbone.hidden(inputs, cache=cache)[:, -1]).argmax())
        if token == backbone.eos_id:
            break
        tokens.append(token)
        inputs = backbone.embed(torch.tensor([[token]]))
    return backbone.decode(tokens)


def report(name: str, right: list[bool], problems: list[ToyProblem]) -> None:
    """Print the share of right rows, also by number of steps."""
    by_steps: dict[int, list[bool]] = defaultdict(list)
    for correct, problem in zip(right, problems, strict=True):
        by_steps[problem.steps].append(correct)
    line: dict[str, Any] = {"task": name, "n": len(right), "share": round(sum(right) / len(right), 3)}
    line |= {f"{steps} steps": round(sum(rows) / len(rows), 3) for steps, rows in sorted(by_steps.items())}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
