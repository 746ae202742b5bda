"""rot-vs-cot: thinking in latents against an explicit chain of thought at its own length, one question at a time.

ROT_CHECKPOINT names a checkpoint of `rottrain stage2`, ROT_COT_CHECKPOINT one of `rottrain sft --mode cot` on the same
base model; without the latter the base model itself reasons in words, which the embedded model has learnt. The budget
is the smallest whose accuracy on 256 problems of the toy corpus's validation split is within one point of the best;
accuracies are those of 256 test problems. A checkpoint that has learnt to stop is timed once more with the stop of its
own within that budget. ROT_PROBLEMS names other toy problems (toy:6-8), ROT_TOKENIZER a tokenizer to count the chain of
thought in, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.common import compare
from rotdata import corpora
from rotdata.corpora.tokens import token_counter
from rotdata.errors import CheckpointError
from rottrain.evaluation.evaluate import Exam, examine
from rottrain.evaluation.modes import Candidate, speaker, thinker, untaught
from rottrain.generation.decoding import GREEDY
from rottrain.generation.generate import RoT
from rottrain.model.trained import load_text_model

PROBLEMS, TIMED = 256, 16
MOST_BUDGETS = 16
POINT = 0.01
STOP = 0.5


def figures() -> Iterator[dict[str, Any]]:
    """The figure; a line that says what is missing, where there is no checkpoint."""
    folder = os.environ.get("ROT_CHECKPOINT")
    if not folder:
        yield {"name": "rot-vs-cot", "ratio": None, "missing": "ROT_CHECKPOINT, a folder of `rottrain stage2`"}
        return
    rot = RoT.from_pretrained(Path(folder))
    words = os.environ.get("ROT_COT_CHECKPOINT")
    said = speaker("cot", load_text_model(Path(words))[0], "sft") if words else untaught("cot", rot.base)
    thought = thinker(rot, budget=_smallest_budget(rot))
    exam = _exam("test")
    results = {each.mode: examine(each, exam)[0] for each in (thought, said)}
    cot, latents = results["cot"], results["rot"].reasoning_tokens
    counted = {"own": cot.reasoning_tokens}
    if cot.tokenizer and cot.text_tokens is not None:
        counted[cot.tokenizer] = cot.text_tokens
    figure = _timed(thought, said, exam)
    yield figure | {
        "corpus": exam.corpus,
        "seconds_a_question": {"rot": round(1 / figure["ours"], 4), "cot": round(1 / figure["baseline"], 4)},
        "accuracy": {mode: round(result.accuracy, 4) for mode, result in results.items()},
        "cot_by": said.name,
        "budget": thought.budget,
        "cot_tokens": counted,
        "tokens_a_latent": {name: round(count / latents, 3) for name, count in counted.items()},
        "own_stop": _stopping(rot, thought.budget, said, exam),
    }


def _timed(thought: Candidate, said: Candidate, exam: Exam) -> dict[str, Any]:
    return compare(
        "rot-vs-cot",
        lambda: _one_by_one(thought, exam),
        lambda: _one_by_one(said, exam),
        units=TIMED,
        unit="questions/s, batch 1",
    )


def _stopping(rot: RoT, budget: int | None, said: Candidate, exam: Exam) -> dict[str, Any] | None:
    """The same with thoughts that end by themselves; None where that was not learnt."""
    try:
        thought = thinker(rot, budget=budget, stop=STOP)
    except CheckpointError:
        return None
    found = examine(thought, exam)[0]
    return {
        "ratio": _timed(thought, said, exam)["ratio"],
        "accuracy": round(found.accuracy, 4),
        "latents": round(found.reasoning_tokens, 2),
    }


def _smallest_budget(rot: RoT) -> int:
    """The smallest budget that is within a point of the best one on validation problems."""
    exam = _exam("validation")
    longest = rot.config.budget or (rot.config.lengths or {}).get("1") or rot.budget(None)
    budgets = range(longest, 0, -max(1, round(longest / MOST_BUDGETS)))
    accuracies = {budget: examine(thinker(rot, budget=budget), exam)[0].accuracy for budget in budgets}
    return min(budget for budget, accuracy in accuracies.items() if accuracy >= max(accuracies.values()) - POINT)


def _exam(split: str) -> Exam:
    problems = os.environ.get("ROT_PROBLEMS", "toy")
    source = corpora.Source(location=problems, corpus="toy", split=split, limit=PROBLEMS)
    rows = [row for row in corpora.read(source) if isinstance(row, corpora.Row)]
    tokenizer = os.environ.get("ROT_TOKENIZER")
    return Exam(corpus=problems, rows=rows, batch_size=64, counter=token_counter(tokenizer) if tokenizer else None)


def _one_by_one(candidate: Candidate, exam: Exam) -> None:
    for row in exam.rows[:TIMED]:
        candidate.answer([row.question], GREEDY)
