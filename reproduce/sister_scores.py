"""`python -m reproduce.sister_scores SISTER CORPUS [--validation]`: what the sister can do; a JSON line a task.

In words and at once on known wordings with other numbers, on wordings held out, and on the corpora's own questions of
these; and how many strips it reads without a fault. With --validation the questions that choices are made by, alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.tiny_scores import transcribe
from reproduce import sister
from reproduce.words import CORPORA
from rotdata.console import print_json, run_app
from rotdata.corpora import Row
from rotdata.encoders.models import find_model
from rottrain.generation import generate
from rottrain.metrics import intervals, scoring
from rottrain.model.backbone import Backbone

TESTS = ("known", "drawn", "own")


def main() -> None:
    """Score all tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sister", help="folder of the model")
    parser.add_argument("corpus", type=Path, help="folder of reproduce.words")
    parser.add_argument("--validation", action="store_true", help="ask the questions for validation alone")
    parser.add_argument("--limit", type=int, default=500, help="questions of each kind")
    parser.add_argument("--strips", type=int, default=100, help="strips of each style")
    wanted = parser.parse_args()
    backbone = Backbone.load(find_model(wanted.sister), dtype=torch.float32, device="cpu")
    tests = ("validation",) if wanted.validation else TESTS
    for name in (corpus.name for corpus in CORPORA):
        for test in tests:
            rows = sister.load_problems(wanted.corpus / name / f"{test}.jsonl")[: wanted.limit]
            questions = [row.question for row in rows]
            for mode, made in (
                ("words", generate.in_words(backbone, questions, batch_size=64, max_tokens=128)),
                ("at once", generate.at_once(backbone, questions, batch_size=64)),
            ):
                right = [
                    scoring.equal(scoring.extract(each.reply), row.answer, "number")
                    for each, row in zip(made, rows, strict=True)
                ]
                report(f"{name}, {test}: {mode}", right)
    read_strips(backbone, sister.load_problems(wanted.corpus / "gsm8k" / f"{tests[0]}.jsonl")[: wanted.strips])


def read_strips(backbone: Backbone, rows: list[Row]) -> None:
    """How many chains are read rightly to the letter, in cells of each size, and as they are aligned and encoded."""
    eyes = sister.Eyes()
    texts = [row.cot for row in rows]
    for style in (each for each in sister.STYLES if each.align_steps):
        for alone in (True, False):
            strips = eyes.strips(texts, [style] * len(texts), [alone] * len(texts))
            read = [transcribe(backbone, latents_KD) for latents_KD, _ in strips]
            context = "alone" if alone else "in its strip"
            aligned = "numbers" if style.align_numbers else "steps"
            report(
                f"reads a strip of {style.cells} cells, {aligned} aligned, each latent {context}",
                [a == b for a, b in zip(read, texts, strict=True)],
            )


def report(task: str, right: list[bool]) -> None:
    """Print the share of right ones, with its 95% interval."""
    found = intervals.share(right)
    print_json(
        {
            "task": task,
            "n": len(right),
            "share": round(found.value, 3),
            "interval": [round(end, 3) for end in (found.low, found.high)],
        }
    )


if __name__ == "__main__":
    run_app(main)
