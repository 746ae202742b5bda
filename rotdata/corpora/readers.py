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
from rotdata.corpora.replies import Unmarked, split_reply, thought_of


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: what is asked, how it is reasoned out, and the bare final answer."""

    id: str
    question: str
    cot: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields that the generic corpus reads, and what is done where replies mark no answer."""

    question: str = "question"
    """A field's name, or a way into it: messages[0].content, meta.question, turns[-1]."""
    cot: str = "cot"
    answer: str = "answer"
    id: str = "id"
    """May be missing: ids are then numbers."""
    last_number: bool = False
    """Whether a reply that marks no answer is answered by its last number."""


class Unusable(Exception):
    """Why a record can't become a row."""


class FieldsMissing(Unusable):
    """The record lacks fields that its corpus has."""

    def __init__(self, names: Sequence[str], record: Record) -> None:
        found = ", ".join(map(str, record)) or "none"
        super().__init__(f"no field {', '.join(map(repr, names))}; found {found}")


def _read_gsm8k(record: Any, names: Fields) -> Row:
    question, solution = _texts(record, "question", "answer")
    split = _split(solution, names) if names.last_number and "####" not in solution else _split_answer(solution)
    return Row(_own_id(record, "id"), question, *split)


def _read_gsm8k_aug(record: Any, _names: Fields) -> Row:
    if _is_line(record):
        return Row("", *_split_line(record))
    if isinstance(record, dict) and isinstance(record.get("steps"), list):
        record = record | {"steps": " ".join(map(str, record["steps"]))}
    question, steps, answer = _texts(record, "question", "steps", "answer")
    return Row(_own_id(record, "id"), question, steps.strip(), answer)


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


def _read_metamath(record: Any, names: Fields) -> Row:
    question, reply = _texts(record, "query", "response")
    return Row("", question, *_split(reply, names))


def _read_openmath(record: Any, _names: Fields) -> Row:
    question, cot, answer = _texts(record, "problem", "generated_solution", "expected_answer")
    return Row("", question, thought_of(cot), answer)


def _read_openr1(record: Any, _names: Fields) -> Row:
    question, answer = _texts(record, "problem", "answer")
    generations = record.get("generations")
    if not isinstance(generations, list) or not generations:
        raise FieldsMissing(["generations"], record)
    judged = record.get("correctness_math_verify")
    right = [bool(one) for one in judged] if isinstance(judged, list) and any(judged) else [True]
    reply = _text(generations[min(right.index(True), len(generations) - 1)], "generations")
    return Row(_own_id(record, "uuid"), question, thought_of(reply), answer)


def _read_alpaca(record: Any, names: Fields) -> Row:
    instruction, reply = _texts(record, "instruction", "output")
    given = _texts(record, "input")[0] if record.get("input") is not None else ""
    return Row("", "\n".join(filter(None, (instruction.strip(), given.strip()))), *_split(reply, names))


def _read_sharegpt(record: Any, names: Fields) -> Row:
    turns = record.get("conversations") if isinstance(record, dict) else record
    return _of_turns(record, turns, names, by="from", says="value")


def _read_chat(record: Any, names: Fields) -> Row:
    turns = record.get("messages", record.get("conversations")) if isinstance(record, dict) else record
    return _of_turns(record, turns, names, by="role", says="content")


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
    "metamath": _read_metamath,
    "openmath": _read_openmath,
    "openr1": _read_openr1,
    "alpaca": _read_alpaca,
    "sharegpt": _read_sharegpt,
    "chat": _read_chat,
    "generic": _read_generic,
    "toy": _read_generic,
}
"""Corpus name -> reader of one record: it raises Unusable with the reason, or returns a Row whose id may be empty."""


_USERS, _MODELS = ("user", "human"), ("assistant", "gpt", "model", "bot", "chatgpt")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields in which a model's thinking stands apart from its reply."""


def _of_turns(record: Any, turns: Any, names: Fields, *, by: str, says: str) -> Row:
    """The first thing that a user says, and what the model replies to it."""
    if not isinstance(turns, list):
        raise Unusable(f"a conversation is a list of turns, got {type(turns).__name__}")
    turns = [turn for turn in turns if isinstance(turn, dict) and by in turn]
    asked = next((place for place, turn in enumerate(turns) if turn[by] in _USERS), len(turns))
    replied = next((turn for turn in turns[asked:] if turn[by] in _MODELS), None)
    if replied is None:
        raise Unusable(
            f"no turn of a user that a model replies to: turns name {by} user and assistant, or human and gpt"
        )
    thought = next((replied[name] for name in _THOUGHTS if isinstance(replied.get(name), str)), "")
    question, reply = (_said(turn.get(says), says) for turn in (turns[asked], replied))
    return Row(_own_id(record, "id"), question, *_split(reply, names, thought=thought))


def _said(content: Any, name: str) -> str:
    """What a turn says: a text, or the texts among its parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return _text(content, name)


def _split(reply: str, names: Fields, *, thought: str = "") -> tuple[str, str]:
    try:
        return split_reply(reply, thought=thought, last_number=names.last_number)
    except Unmarked as error:
        raise Unusable(str(error)) from None


def _texts(record: Any, *names: str) -> list[str]:
    """The fields as text; numbers are written out. Raises Unusable."""
    if not isinstance(record, dict):
        raise Unusable(f"a record is an object with fields, got {type(record).__name__}")
    values = {name: _field(record, name) for name in names}
    missing = [name for name, value in values.items() if value is _ABSENT]
    if missing:
        raise FieldsMissing(missing, record)
    return [_text(value, name) for name, value in values.items()]


_ABSENT = object()
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d{1,6})\]")


def _field(record: Record, name: str) -> Any:
    """The value of a field, or of a way into it such as messages[0].content; _ABSENT if there is none."""
    if name in record:
        return record[name]
    value: Any = record
    for step in _STEP.finditer(name):
        key, index = step.groups()
        try:
            value = value[int(index)] if key is None and isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return value if _STEP.sub("", name) == "" else _ABSENT


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
