"""What commands that answer are given: budgets and questions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotdata.console import is_unicode, say

if TYPE_CHECKING:
    from rottrain.generation.generate import Budget, RoT

_MANY_LATENTS = 1000


def as_budget(text: str | None) -> Any:
    """A budget as `RoT.generate` takes it."""
    from rotdata.errors import UsageError

    if text in (None, "auto"):
        return text
    try:
        return int(str(text))
    except ValueError:
        raise UsageError(f"a budget is a number of latents, or auto; got {str(text)[:80]!r}") from None


def tell_cost(rot: RoT, budget: Budget, batch_size: int) -> None:
    """Say what a budget of many latents will take, before it is spent."""
    latents = rot.budget(budget)
    if latents < _MANY_LATENTS:
        return
    backbone = rot.backbone
    config = backbone.model.config.get_text_config()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer_bytes = 2 * config.num_key_value_heads * head_width * backbone.dtype.itemsize  # keys and values
    cache_gib = config.num_hidden_layers * layer_bytes * latents * batch_size / 2**30
    say(
        f"{latents} latents a question are {latents} passes, one after another, and up to {cache_gib:.1f} GiB of "
        f"cache for {batch_size} questions together"
    )


def read_questions(questions: list[str] | None, file: Path | None) -> list[str]:
    """What is asked as arguments and in a file; stdin's lines where there is neither."""
    from rotdata.errors import UsageError

    asked = list(questions or ())
    if file is not None:
        asked += _lines(_decoded(file.read_bytes(), str(file)), str(file))
    elif not asked and sys.stdin is not None:  # it is None where the shell has closed it
        asked = _lines(_decoded(sys.stdin.buffer.read(), "stdin"), "stdin")
    asked = [question for question in asked if question.strip()]
    if not asked:
        raise UsageError("there is no question: give it as an argument, in --file, or on stdin")
    return asked


def _decoded(content: bytes, source: str) -> str:
    """Text of a file or of stdin, whatever the locale says."""
    from rotdata.errors import UsageError

    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from error


def _lines(text: str, source: str) -> list[str]:
    """Questions of a text: its lines; or, where the first one is a JSON object, the field `question` of each."""
    from rotdata.errors import UsageError

    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines or not isinstance(_parsed(lines[0][1]), dict):
        return [line.strip() for _, line in lines]
    questions = []
    for number, line in lines:
        record = _parsed(line)
        question = record.get("question") if isinstance(record, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise UsageError(f"{source}, line {number} is no JSON object with a text in its field question")
        if not is_unicode(question):
            raise UsageError(f"{source}, line {number} asks with a lone surrogate, which is no character: remove it")
        questions.append(question)
    return questions


def _parsed(line: str) -> Any:
    """The JSON value of a line; None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
