"""Readers of one record, a corpus each: its fields -> a Row, or why it can't be one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rotdata.corpora.cot_text import last_boxed
from rotdata.corpora.files import LINE, Record


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: what is asked, how it is reasoned out, and the bare final answer."""

    id: str
    question: str
    cot: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields that the generic corpus reads."""

    question: str = "question"
    cot: str = "cot"
    answer: str = "answer"
    id: str = "id"
    """May be missing: ids are then numbers."""


class Unusable(Exception):
    """Why a record can't become a row."""


class FieldsMissing(Unusable):
    """The record lacks fields that its corpus has."""

    def __init__(self, names: Sequence[str], record: Record) -> None:
        found = ", ".join(map(str, record)) or "none"
        super().__init__(f"no field {', '.join(map(repr, names))}; found {found}")


def _read_gsm8k(record: Any, _names: Fields) -> Row:
    question, solution = _texts(record, "question", "answer")
    return Row("", question, *_split_answer(solution))


def _read_gsm8k_aug(record: Any, _names: Fields) -> Row:
    if _is_line(record):
        return Row("", *_split_line(record))
    if isinstance(record, dict) and isinstance(record.get("steps"), list):
        record = record | {"steps": " ".join(map(str, record["steps"]))}
    question, steps, answer = _texts(record, "question", "steps", "answer")
    return Row("", question, steps.strip(), answer)


def _read_math(record: Any, _names: Fields) -> Row:
    problem, solution = _texts(record, "problem", "solution")
    given = record.get("answer") not in (None, "")
    answer = _texts(record, "answer")[0] if given else last_boxed(solution)
    if answer is None:
        raise Unusable("the solution has no \\boxed answer")
    return Row(_own_id(record, "unique_id"), problem, solution, answer)


def _read_svamp(record: Any, _names: Fields) -> Row:
    equation, answer = _texts(record, "Equation", "Answer")
    if isinstance(record, dict) and "question_concat" in record:
        [question] = _texts(record, "question_concat")
    else:
        body, question = (text.strip() for text in _texts(record, "Body", "Question"))
        question = f"{body}{'' if body[-1:] in '.?!,' else '.'} {question}".strip()
    answer = _plain_number(answer)
    return Row(_own_id(record, "ID"), question, _solved(equation, answer), answer)


def _read_multiarith(record: Any, _names: Fields) -> Row:
    if isinstance(record, dict) and "final_ans" in record:
        question, answer = _texts(record, "question", "final_ans")
        return Row("", question.strip(), "", _plain_number(answer))
    [question] = _texts(record, "sQuestion")
    equation, answer = (_only_text(record, name) for name in ("lEquations", "lSolutions"))
    answer = _plain_number(answer)
    equation = re.sub(r"^\s*X\s*=", "", equation)
    return Row(_own_id(record, "iIndex"), question.strip(), _solved(equation, answer), answer)


def _read_gsm_hard(record: Any, _names: Fields) -> Row:
    question, answer = _texts(record, "input", "target")
    code = _texts(record, "code")[0] if "code" in record else ""
    return Row("", question, code, answer)


def _read_generic(record: Any, names: Fields) -> Row:
    if _is_line(record):
        return Row("", *_split_line(record))
    question, cot, answer = _texts(record, names.question, names.cot, names.answer)
    return Row(_own_id(record, names.id), question, cot, answer)


CORPORA: dict[str, Callable[[Any, Fields], Row]] = {
    "gsm8k": _read_gsm8k,
    "gsm8k-aug": _read_gsm8k_aug,
    "gsm8k-aug-nl": _read_gsm8k_aug,
    "math": _read_math,
    "svamp": _read_svamp,
    "multiarith": _read_multiarith,
    "gsm-hard": _read_gsm_hard,
    "generic": _read_generic,
    "toy": _read_generic,
}
"""Corpus name -> reader of one record: it raises Unusable with the reason, or returns a Row whose id may be empty."""


def _texts(record: Any, *names: str) -> list[str]:
    """The fields as text; numbers are written out. Raises Unusable."""
    if not isinstance(record, dict):
        raise Unusable(f"a record is an object with fields, got {type(record).__name__}")
    missing = [name for name in names if name not in record]
    if missing:
        raise FieldsMissing(missing, record)
    return [_text(record[name], name) for name in names]


def _only_text(record: Record, name: str) -> str:
    """The text of a field that is a list of one."""
    if name not in record:
        raise FieldsMissing([name], record)
    value = record[name]
    if isinstance(value, list):
        if len(value) != 1:
            raise Unusable(f"field {name!r} lists {len(value)} values, not one")
        value = value[0]
    return _text(value, name)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unusable(f"field {name!r} is {type(value).__name__}, not text")
    if isinstance(value, Decimal):
        return _plain_number(f"{value:f}")
    if isinstance(value, float):
        if not math.isfinite(value):  # NaN is how tables write a missing value
            raise Unusable(f"field {name!r} is {value}, not text")
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    try:
        return str(value)
    except ValueError:
        raise Unusable(f"field {name!r} is a number of too many digits") from None


def _split_answer(solution: str) -> tuple[str, str]:
    """A chain of thought and what follows its last "####"."""
    cot, found, answer = solution.rpartition("####")
    if not found:
        raise Unusable('no "####" before the answer')
    return cot.strip(), answer.strip()


def _is_line(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() == {LINE}


def _split_line(record: Record) -> tuple[str, str, str]:
    """Question, chain of thought and answer of a line of plain text."""
    question, found, solution = str(record[LINE]).partition("||")
    if not found:
        raise Unusable('a line has the form "question||steps #### answer", and this one has no "||"')
    return question.strip(), *_split_answer(solution)


def _plain_number(text: str) -> str:
    """A number without a decimal part of zeros."""
    return re.sub(r"(?<=\d)\.0+(?!\d)", "", text.strip())


def _solved(equation: str, answer: str) -> str:
    """An equation as one line of arithmetic with its result: "( 76.0 - 25.0 )" and "51" -> "76 - 25 = 51"."""
    if not equation.strip():
        return ""
    text = re.sub(r"\(\s+", "(", re.sub(r"(?<!\s)\s+\)", ")", _plain_number(equation)))
    if text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    return f"{text} = {answer}"


def _closing(text: str) -> int:
    """Where the parenthesis that opens `text` closes; -1 if nowhere."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return i
    return -1


def _own_id(record: Any, name: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    return _text(value, name) if isinstance(value, str | int) and not isinstance(value, bool) else ""
