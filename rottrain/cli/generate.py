"""rottrain generate: questions in, answers out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rotdata.cli.options import Json
from rotdata.console import print_json, tell
from rottrain.cli.inputs import as_budget, read_questions, tell_cost
from rottrain.cli.options import (
    BaseModel,
    Budget,
    Checkpoint,
    Confidence,
    FeedbackOption,
    MaxAnswerTokens,
    Stop,
    Temperature,
    Together,
    TopP,
)


def generate(
    checkpoint: Checkpoint,
    questions: Annotated[
        list[str] | None, typer.Argument(help="Questions; without any, and without --file, stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file with one question a line, or JSON lines with a field question.")
    ] = None,
    budget: Budget = None,
    stop: Stop = None,
    feedback: FeedbackOption = None,
    confidence: Confidence = 0.8,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled answers.")] = 0,
    batch_size: Together = 16,
    max_answer_tokens: MaxAnswerTokens = None,
    max_question_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a question with its prompt, 8192 by default.")
    ] = None,
    model: BaseModel = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON line an answer, batch by batch.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Answer questions: think in latents, then say the answer. Answers are printed as each batch is done."""
    from rottrain.generation.decoding import Sampling
    from rottrain.generation.feedback import check_confidence
    from rottrain.generation.generate import MAX_ANSWER_TOKENS, RoT
    from rottrain.metrics import scoring

    asked = read_questions(questions, file)
    check_confidence(confidence)
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    spent = as_budget(budget)
    rot = RoT.from_pretrained(checkpoint, model=model)
    fed_back = rot.feedback(feedback)
    rot.max_question_tokens = max_question_tokens or rot.max_question_tokens
    tell_cost(rot, spent, min(batch_size, len(asked)))
    streamed = rot.stream(
        asked,
        budget=spent,
        stop=stop,
        feedback=fed_back,
        sampling=sampling,
        batch_size=batch_size,
        max_answer_tokens=max_answer_tokens or MAX_ANSWER_TOKENS,
    )
    if json_:
        print_json([_as_json(made, fed_back, confidence) for made in streamed])
        return
    for made in streamed:
        if jsonl:
            print_json(_as_json(made, fed_back, confidence))
        else:
            tell(scoring.extract(made.reply) or made.reply)
        sys.stdout.flush()


def _as_json(made: Any, feedback: str, confidence: float) -> dict[str, Any]:
    """What was generated, as JSON for the user."""
    from rottrain.metrics import scoring

    return {
        "question": made.question,
        "answer": scoring.extract(made.reply),
        "reply": made.reply,
        "complete": made.complete,
        "feedback": feedback,
        "thought": None if made.thought is None else _thought(made.thought, confidence),
        "reasoning_tokens": made.reasoning_tokens,
        "answer_tokens": made.answer_tokens,
        "seconds": round(made.seconds, 5),
        "timings": {name: round(seconds, 5) for name, seconds in vars(made.timings).items()},
    }


def _thought(thought: Any, confidence: float) -> dict[str, Any]:
    """What was read in the latents, as JSON: all of it, each latent, and how many are doubtful."""
    unsure = thought.unsure(confidence)
    return {
        "text": thought.text,
        "latents": [
            {"text": text, "confidence": round(sure, 4), "unsure": doubted}
            for text, sure, doubted in zip(thought.texts, thought.confidences, unsure, strict=True)
        ],
        "unsure": sum(unsure),
        "unnamed": thought.unnamed,
        "drawn": thought.drawn,
    }
