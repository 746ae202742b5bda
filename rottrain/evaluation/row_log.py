"""The log of an evaluation: a Parquet file with a line for every question, candidate and run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rotdata.output import write_atomically
from rottrain.evaluation.evaluate import Judged, Result
from rottrain.generation.generate import Timings

COLUMNS = {
    "mode": "string",
    "answered_by": "string",
    "corpus": "string",
    "budget": "int64",
    "stop": "double",
    "seed": "int64",
    "id": "string",
    "question": "string",
    "reference": "string",
    "answer": "string",
    "correct": "bool",
    "flexible_answer": "string",
    "flexible_correct": "bool",
    "error": "string",
    "reply": "string",
    "reasoning_tokens": "int64",
    "answer_tokens": "int64",
    "complete": "bool",
    "seconds": "double",
    "prefill_s": "double",
    "latents_s": "double",
    "answer_s": "double",
    "feedback": "string",
    "thought": "string",
    "votes": "int64",
}
"""Columns and their types, as Arrow calls them. `thought` is what picture feedback read; `votes` are a row's samples
that gave the answer, where there was a vote: then reply and thought are of the first of them, tokens and seconds of
all."""


def lines(result: Result, runs: Sequence[Sequence[Judged]]) -> Iterator[dict[str, Any]]:
    """What is kept of each row of a result's runs; run N was sampled with seed N."""
    for seed, run in enumerate(runs):
        for judged in run:
            yield {
                "mode": result.mode,
                "answered_by": result.answered_by,
                "corpus": result.corpus,
                "budget": result.budget,
                "stop": result.stop,
                "seed": seed,
                "id": judged.row.id,
                "question": judged.row.question,
                "reference": judged.row.answer,
                "answer": judged.answer,
                "correct": judged.correct,
                "flexible_answer": judged.flexible_answer,
                "flexible_correct": judged.flexible_correct,
                "error": judged.error,
                "feedback": result.feedback,
                "votes": judged.votes,
            } | _of_generation(judged)


def _of_generation(judged: Judged) -> dict[str, Any]:
    """Reply, thought, tokens and seconds; None for each if generation failed."""
    first, made = judged.generation, judged.made
    if first is None:
        return {}
    return (
        {"reply": first.reply, "thought": None if first.thought is None else first.thought.text}
        | {"complete": all(each.complete for each in made)}
        | {name: sum(getattr(each, name) for each in made) for name in ("reasoning_tokens", "answer_tokens", "seconds")}
        | {name: sum(getattr(each.timings, name) for each in made) for name in vars(Timings())}
    )


def write(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write the log, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(entries), schema=schema), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
