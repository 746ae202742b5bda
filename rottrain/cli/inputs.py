"""What commands that answer are given: budgets and questions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def as_budget(text: str | None) -> Any:
    """A budget as `RoT.generate` takes it."""
    from rotdata.errors import UsageError

    try:
        return text if text in (None, "auto") else int(str(text))
    except ValueError:
        raise UsageError(f"a budget is a number of latents, or auto; got {text!r}") from None


def read_questions(questions: list[str] | None, file: Path | None) -> list[str]:
    """What is asked as arguments and in a file; stdin's lines where there is neither."""
    from rotdata.errors import UsageError

    asked = list(questions or ())
    try:
        if file is not None:
            asked += _lines(file.read_text(encoding="utf-8-sig"), str(file))
        elif not asked:
            asked = _lines(sys.stdin.read(), "stdin")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file or 'stdin'} is not UTF-8: {error.reason} at byte {error.start}") from error
    asked = [question for question in asked if question.strip()]
    if not asked:
        raise UsageError("there is no question: give it as an argument, in --file, or on stdin")
    return asked


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
        questions.append(question)
    return questions


def _parsed(line: str) -> Any:
    """The JSON value of a line; None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
