"""Rows in memory: the same as a file of them, asked for once, identified by what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from rotdata.corpora import Fields, Reject, Row, Source, describe, opened, read
from rotdata.errors import SourceError, UsageError

RECORDS = [{"question": f"{n}+1?", "cot": f"{n}+1={n + 1}", "answer": n + 1, "id": f"row {n}"} for n in range(12)]
ROWS = [Row(str(each["id"]), str(each["question"]), str(each["cot"]), str(each["answer"])) for each in RECORDS]


def rows_of(source: Any, **reading: Any) -> list[Row | Reject]:
    with opened(source, **reading) as found:
        return list(read(found))


def identity_of(source: Any, **reading: Any) -> dict[str, Any]:
    with opened(source, **reading) as found:
        return describe(found)


@pytest.mark.parametrize(
    "source",
    [
        RECORDS,
        ROWS,
        (each for each in RECORDS),
        datasets.Dataset.from_list(RECORDS),
        datasets.Dataset.from_list(RECORDS).to_iterable_dataset(),
    ],
    ids=["mappings", "rows", "generator", "dataset", "iterable dataset"],
)
def test_rows_in_memory_are_read_as_they_are(source: Any) -> None:
    assert rows_of(source) == ROWS


def test_the_place_of_a_file_may_be_a_path_or_a_source(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    assert rows_of(file) == rows_of(str(file)) == rows_of(Source(location=str(file), corpus="generic")) == ROWS


def test_a_source_says_itself_how_it_is_read() -> None:
    with pytest.raises(UsageError, match="put limit into it"), opened(Source(location="toy"), limit=3):
        pass


def test_further_arguments_are_fields_of_the_source() -> None:
    renamed = [{"q": each.question, "thought": each.cot, "a": each.answer} for each in ROWS]
    fields = Fields(question="q", cot="thought", answer="a")
    found = rows_of(renamed, corpus="generic", fields=fields, limit=5, split="test")
    assert [each.id for each in found] == [f"generic-test-{n:06d}" for n in range(5)]
    assert [each.cot for each in found if isinstance(each, Row)] == [each.cot for each in ROWS[:5]]


def test_the_corpus_of_records_is_recognised_and_rows_are_of_none() -> None:
    records = [{"question": each.question, "answer": f"{each.cot}\n#### {each.answer}"} for each in ROWS]
    with opened(records) as found:
        assert found.corpus == "gsm8k"
    marked = [Row("", each.question, each.cot, f"{each.cot} #### {each.answer}") for each in ROWS]
    assert [each.answer for each in rows_of(marked) if isinstance(each, Row)] == [each.answer for each in marked]


def test_questions_and_bare_answers_do_where_no_chain_of_thought_is_needed() -> None:
    bare = [{"question": each.question, "answer": each.answer} for each in ROWS]
    assert [each.answer for each in rows_of(bare, need_cot=False) if isinstance(each, Row)] == [
        each.answer for each in ROWS
    ]
    solved = [{"question": each.question, "answer": f"{each.cot}\n#### {each.answer}"} for each in ROWS]
    with opened(solved, need_cot=False) as found:
        assert found.corpus == "gsm8k"
    with pytest.raises(SourceError, match="of no known corpus: found the fields answer, question"):
        rows_of(bare)


def test_the_same_rows_have_one_identity_and_others_another() -> None:
    turned = [dict(reversed(each.items())) for each in RECORDS]
    assert identity_of(RECORDS) == identity_of(iter(turned)) == identity_of(datasets.Dataset.from_list(RECORDS))
    assert identity_of(RECORDS[:-1])["files"].keys() == identity_of(RECORDS)["files"].keys() == {"rows.jsonl"}
    others = [RECORDS[:-1], RECORDS[::-1], [*RECORDS[:-1], RECORDS[-1] | {"answer": "0"}]]
    assert len({json.dumps(identity_of(each)) for each in [RECORDS, *others]}) == 4


def test_what_can_not_be_drawn_is_a_reject_as_in_a_file() -> None:
    found = rows_of([*RECORDS, {"question": "?", "cot": "\ud800", "answer": 1}, {"question": "?"}])
    assert [isinstance(each, Reject) for each in found] == [False] * 12 + [True] * 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a text"], "row 0 is str, not a rotdata.Row or a mapping"),
        ([*RECORDS, 7], "row 12 is int"),
        ([{1: "x"}], "row 0 is dict"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)), "row 0 is str"),
        ([RECORDS[0] | {"image": object()}], "row 0 holds what is neither text nor number"),
    ],
)
def test_what_is_no_row_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rows_of(rows)


def test_no_rows_are_refused() -> None:
    with pytest.raises(SourceError, match="holds no records"):
        rows_of([])
