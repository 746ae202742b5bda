"""Rows -> records of a corpus' own form, which its reader reads back to the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rotdata.corpora.files import Record
from rotdata.corpora.readers import Row


def record_of(row: Row, corpus: str) -> Record:
    """A row in the form of a corpus; of one without an own form here, as generic."""
    return _FORMS.get(corpus, _generic)(row)


def _gsm8k(row: Row) -> Record:
    return {"id": row.id, "question": row.question, "answer": f"{row.cot}\n#### {row.answer}"}


def _gsm8k_aug(row: Row) -> Record:
    return {"id": row.id, "question": row.question, "steps": row.cot, "answer": row.answer}


def _svamp(row: Row) -> Record:
    equation = f"( {_expression(row)} )"
    return {"ID": row.id, "question_concat": row.question, "Equation": equation, "Answer": _number(row.answer)}


def _multiarith(row: Row) -> Record:
    equation = f"X=({_expression(row)})"
    return {
        "iIndex": row.id,
        "sQuestion": row.question,
        "lEquations": [equation],
        "lSolutions": [_number(row.answer)],
    }


def _generic(row: Row) -> Record:
    return {"id": row.id, "question": row.question, "cot": row.cot, "answer": row.answer}


_FORMS: dict[str, Callable[[Row], Record]] = {
    "gsm8k": _gsm8k,
    "gsm8k-aug": _gsm8k_aug,
    "svamp": _svamp,
    "multiarith": _multiarith,
}


def _expression(row: Row) -> str:
    return row.cot.partition("=")[0].strip()


def _number(answer: str) -> Any:
    return int(answer) if answer.isdecimal() else float(answer)
