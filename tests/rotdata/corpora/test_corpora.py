"""The readers of every corpus: what becomes a row, what a counted reject, and what stops at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.corpora import TOY_ROWS, Fields, Reject, Row, Source, describe, read, resolve, survey
from rotdata.errors import SourceError, UnknownCorpus, UsageError
from tests.helpers import write_jsonl

GSM8K = {"question": "How many?", "answer": "He has 3+4 = <<3+4=7>>7 figs.\nSo 7.\n#### 7"}
AUG = {"question": "How many?", "steps": "<<3+4=7>> <<7*2=14>>", "answer": "14"}
MATH = {"problem": "Find $x$.", "solution": "Clearly $x = \\boxed{\\frac{1}{2}}$.", "unique_id": "test/algebra/1.json"}
PLAIN = {"id": "one", "question": "How many?", "cot": "3+4=7", "answer": "7"}
RECORDS = {"gsm8k": GSM8K, "gsm8k-aug": AUG, "math": MATH, "generic": PLAIN}


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., list[Row | Reject]]:
    """Write records to a .jsonl file and read it as `corpus`."""

    def read_lines(corpus: str, *records: Any, **options: Any) -> list[Row | Reject]:
        file = write_jsonl(tmp_path / "corpus.jsonl", records)
        return list(read(Source(location=str(file), corpus=corpus, **options)))

    return read_lines


# What becomes of a record.


def test_gsm8k_loses_its_calculator_marks_and_its_answer_line(lines: Any) -> None:
    assert lines("gsm8k", GSM8K) == [Row("gsm8k-train-000000", "How many?", "He has 3+4 = 7 figs.\nSo 7.", "7")]


def test_gsm8k_answers_after_the_last_mark(lines: Any) -> None:
    [row] = lines("gsm8k", {"question": "q", "answer": "a #### b\n#### 1,234 "})
    assert (row.cot, row.answer) == ("a #### b", "1,234")


def test_gsm8k_without_answer_mark_is_a_reject(lines: Any) -> None:
    found = lines("gsm8k", GSM8K, {"question": "q", "answer": "seven"})
    assert found[1] == Reject("gsm8k-train-000001 (line 2)", 'no "####" before the answer')


def test_gsm8k_aug_keeps_its_calculator_marks(lines: Any) -> None:
    assert lines("gsm8k-aug", AUG) == [Row("gsm8k-aug-train-000000", "How many?", AUG["steps"], "14")]


def test_gsm8k_aug_joins_a_list_of_steps(lines: Any) -> None:
    assert lines("gsm8k-aug", AUG | {"steps": ["<<3+4=7>>", "<<7*2=14>>"]}) == lines("gsm8k-aug", AUG)


def test_gsm8k_aug_reads_plain_lines(tmp_path: Path) -> None:
    file = tmp_path / "valid.txt"
    file.write_text("How many? ||<<3+4=7>> <<7*2=14>> #### 14\nno separator #### 3\n")
    assert list(read(Source(location=str(file), corpus="gsm8k-aug", split="valid"))) == [
        Row("gsm8k-aug-valid-000000", "How many?", "<<3+4=7>> <<7*2=14>>", "14"),
        Reject(
            "gsm8k-aug-valid-000001 (line 2)",
            'a line has the form "question||steps #### answer", and this one has no "||"',
        ),
    ]


def test_math_answers_with_the_last_box_of_its_solution(lines: Any) -> None:
    assert lines("math", MATH) == [Row("test/algebra/1.json", "Find $x$.", MATH["solution"], "\\frac{1}{2}")]


@pytest.mark.parametrize(("given_answer", "answer"), [("0.5", "0.5"), (5, "5"), ("", "\\frac{1}{2}")])
def test_math_prefers_the_answer_it_is_given(lines: Any, given_answer: Any, answer: str) -> None:
    [row] = lines("math", MATH | {"answer": given_answer})
    assert row.answer == answer


def test_math_without_box_is_a_reject(lines: Any) -> None:
    found = lines("math", MATH, MATH | {"solution": "Clearly."})
    assert found[1] == Reject("math-train-000001 (line 2)", "the solution has no \\boxed answer")


def test_generic_reads_the_fields_it_is_told(lines: Any) -> None:
    record = {"q": "How many?", "r": "3+4", "a": 7}
    fields = Fields(question="q", cot="r", answer="a")
    assert lines("generic", record, fields=fields) == [Row("generic-train-000000", "How many?", "3+4", "7")]


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (51.0, "51"), (0.1, "0.1"), (-3, "-3"), (1e6, "1000000")])
def test_numbers_are_written_out(lines: Any, value: float, text: str) -> None:
    [row] = lines("generic", PLAIN | {"answer": value})
    assert row.answer == text


@pytest.mark.parametrize("value", [None, True, ["7"], {"value": 7}])
def test_a_field_that_is_no_text_is_a_reject(lines: Any, value: Any) -> None:
    found = lines("generic", PLAIN, PLAIN | {"answer": value})
    assert found[1] == Reject("generic-train-000001 (line 2)", f"field 'answer' is {type(value).__name__}, not text")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e999"])
def test_a_number_that_is_none_is_a_reject(lines: Any, value: str) -> None:
    found = lines("generic", PLAIN, f'{{"question": "q", "cot": "c", "answer": {value}}}')
    assert found[1].reason == f"field 'answer' is {float(value)}, not text"


def test_decimals_of_a_table_are_written_out(tmp_path: Path) -> None:
    answers = [Decimal("51.00"), Decimal("-0.50"), Decimal("1E+3")]
    rows = [{"question": "q", "cot": "c", "answer": answer} for answer in answers]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert [row.answer for row in read(Source(location=str(tmp_path / "rows.parquet")))] == ["51", "-0.50", "1000"]


# Rejects: counted, placed, and never the end of the reading.


@pytest.mark.parametrize("cot", ["", "   ", "\n\t"])
def test_an_empty_chain_of_thought_is_a_reject(lines: Any, cot: str) -> None:
    assert lines("generic", PLAIN, PLAIN | {"cot": cot})[1] == Reject(
        "generic-train-000001 (line 2)", "the chain of thought is empty"
    )


def test_a_chain_of_thought_of_marks_alone_is_empty_to_gsm8k(lines: Any) -> None:
    found = lines("gsm8k", GSM8K, {"question": "q", "answer": "<<3+4=7>> #### 7"})
    assert found[1].reason == "the chain of thought is empty"


@pytest.mark.parametrize("name", ["question", "answer"])
def test_an_empty_question_or_answer_is_a_reject(lines: Any, name: str) -> None:
    assert lines("generic", PLAIN, PLAIN | {name: " "})[1].reason == "the question or the answer is empty"


def test_a_malformed_line_is_a_reject_with_its_number(lines: Any) -> None:
    found = lines("generic", PLAIN, '{"question": "cut o', "", PLAIN | {"id": "two"})
    assert [type(entry) for entry in found] == [Row, Reject, Row]
    assert found[1].id == "generic-train-000001 (line 2)"
    assert found[1].reason.startswith("line 2 is malformed JSON: ")
    assert found[2].id == "two"


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, "NaN", "[1, 2]", '"text"', "null", "\ufeff"])
def test_whatever_a_line_holds_it_is_a_row_or_a_reject(lines: Any, line: str) -> None:
    found = lines("generic", PLAIN, line, PLAIN)
    assert [type(entry) for entry in found] == [Row, Reject, Row]
    assert found[1].id == "generic-train-000001 (line 2)"


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b" ")), max_size=5))
def test_any_bytes_are_read_to_their_end(tmp_path_factory: pytest.TempPathFactory, noise: list[bytes]) -> None:
    file = tmp_path_factory.getbasetemp() / "noise.jsonl"
    file.write_bytes(b"\n".join([json.dumps(PLAIN).encode(), *noise, json.dumps(PLAIN).encode()]))
    found = list(read(Source(location=str(file), corpus="generic")))
    assert len(found) == 2 + sum(1 for line in noise if line.strip())
    assert isinstance(found[0], Row)
    assert isinstance(found[-1], Row)


def test_a_line_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(json.dumps(PLAIN).encode() + b"\n" + '{"question": "caf\u00e9"}'.encode("latin-1") + b"\n")
    found = list(read(Source(location=str(file), corpus="generic")))
    assert found[1].reason.startswith("line 2 is not UTF-8")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", json.dumps(PLAIN)), ("a.json", json.dumps([PLAIN]))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert list(read(Source(location=str(tmp_path / name), corpus="generic"))) == [
            Row("one", "How many?", "3+4=7", "7")
        ]


@pytest.mark.parametrize("name", ["id", "question", "cot", "answer"])
def test_a_lone_surrogate_is_a_reject(lines: Any, name: str) -> None:
    found = lines("generic", PLAIN, PLAIN | {name: "a\ud800b"})
    assert found[1].id == "generic-train-000001 (line 2)"
    assert "a lone surrogate" in found[1].reason


def test_a_later_record_that_lacks_a_field_is_a_reject(lines: Any) -> None:
    found = lines("generic", PLAIN, {"question": "q", "rationale": "r"})
    assert found[1].reason == "no field 'cot', 'answer'; found question, rationale"


# The other corpora.

SVAMP = {"ID": "chal-1", "Body": "A pack costs 76 dollars", "Question": "How much?", "Equation": "( 76.0 - 25.0 )"}
SVAMP |= {"Answer": 51.0, "Type": "Subtraction"}
MULTIARITH = {"iIndex": 3, "lEquations": ["X=((26.0+46.0)/9.0)"], "lSolutions": [8.0], "sQuestion": " How many? "}
HARD = {"input": "How many?", "code": "def solution():\n    return 3 + 4", "target": 8695533.0}


def test_a_chain_of_thought_of_svamp_is_its_equation_solved(lines: Any) -> None:
    assert lines("svamp", SVAMP) == [Row("chal-1", "A pack costs 76 dollars. How much?", "76 - 25 = 51", "51")]
    hub = {"question_concat": "A pack. How much?", "Equation": "( 10.0 - ( 6.5 + 3.0 ) )", "Answer": "0.5"}
    assert lines("svamp", hub) == [Row("svamp-train-000000", "A pack. How much?", "10 - (6.5 + 3) = 0.5", "0.5")]
    beside = SVAMP | {"Body": "It rains.", "Equation": "( 3.0 + 4.0 ) * ( 2.0 - 1.0 )", "Answer": 7}
    assert lines("svamp", beside)[0].cot == "(3 + 4) * (2 - 1) = 7"


def test_spaces_without_end_in_an_equation_are_read(lines: Any) -> None:
    [row] = lines("svamp", SVAMP | {"Equation": f"( 76.0{' ' * 1_000_000}- 25.0{' ' * 1_000_000})"})
    assert row.cot == f"76{' ' * 1_000_000}- 25 = 51"


def test_a_chain_of_thought_of_multiarith_is_its_equation_solved(lines: Any) -> None:
    assert lines("multiarith", MULTIARITH) == [Row("3", "How many?", "(26+46)/9 = 8", "8")]


def test_multiarith_without_equations_is_for_questions_only(lines: Any) -> None:
    hub = {"question": " How many? ", "final_ans": "8"}
    assert [entry.reason for entry in lines("multiarith", hub)] == ["the chain of thought is empty"]
    assert lines("multiarith", hub, need_cot=False) == [Row("multiarith-train-000000", "How many?", "", "8")]


def test_several_equations_are_no_row(lines: Any) -> None:
    found = lines("multiarith", MULTIARITH, MULTIARITH | {"lEquations": ["X=1", "X=2"]})
    assert found[1].reason == "field 'lEquations' lists 2 values, not one"


def test_a_chain_of_thought_of_gsm_hard_is_its_code(lines: Any) -> None:
    assert lines("gsm-hard", HARD) == [Row("gsm-hard-train-000000", "How many?", HARD["code"], "8695533")]
    bare = {"input": "How many?", "target": -1.25e20}
    assert lines("gsm-hard", bare, need_cot=False)[0].answer == "-1.25e+20"


def test_steps_in_words_are_gsm8k_aug_nl(lines: Any) -> None:
    words = {"question": "How many?", "steps": ["He has 3 + 4 = 7.", "So 7."], "answer": "7"}
    assert lines("gsm8k-aug-nl", words)[0].cot == "He has 3 + 4 = 7. So 7."


@pytest.mark.parametrize(
    ("corpus", "calc", "cot"),
    [
        ("gsm8k", None, "He has 3+4 = 7 figs.\nSo 7."),
        ("gsm8k", "keep", "He has 3+4 = <<3+4=7>>7 figs.\nSo 7."),
        ("gsm8k", "only", "<<3+4=7>>"),
        ("gsm8k-aug", None, "<<3+4=7>> <<7*2=14>>"),
        ("gsm8k-aug", "only", "<<3+4=7>> <<7*2=14>>"),
    ],
)
def test_calculator_marks_are_kept_stripped_or_all_that_is_kept(lines: Any, corpus: str, calc: Any, cot: str) -> None:
    assert lines(corpus, RECORDS[corpus], calc=calc)[0].cot == cot


def test_a_row_without_calculator_marks_has_nothing_under_only(lines: Any) -> None:
    [found] = lines("generic", PLAIN, calc="only")
    assert found.reason == "the chain of thought has no calculator mark <<...>>"


def test_latex_may_become_unicode_and_the_answer_stays(lines: Any) -> None:
    [row] = lines("math", MATH | {"solution": "So $\\frac{1}{2}\\pi \\le x$: $\\boxed{\\frac{1}{2}}$"}, latex="unicode")
    assert row.cot == "So 1/2π≤ x: 1/2"
    assert row.answer == "\\frac{1}{2}"


@pytest.mark.parametrize(
    ("policy", "cot"),
    [
        ("keep", "a [asy]\ndraw(1);\n[/asy] b \\boxed{1}"),
        ("drop", "a  b \\boxed{1}"),
        ("mark", "a [figure] b \\boxed{1}"),
    ],
)
def test_drawings_are_kept_dropped_or_marked(lines: Any, policy: Any, cot: str) -> None:
    record = MATH | {"solution": "a [asy]\ndraw(1);\n[/asy] b \\boxed{1}"}
    assert lines("math", record, asymptote=policy)[0].cot == cot


def test_a_row_with_a_drawing_may_be_rejected(lines: Any) -> None:
    record = MATH | {"solution": "\\begin{asy}draw(1);\\end{asy} \\boxed{1}"}
    assert lines("math", record, asymptote="reject")[0].reason == "the chain of thought holds an Asymptote drawing"
    assert isinstance(lines("math", MATH, asymptote="reject")[0], Row)


# Recognition.

ALL = RECORDS | {"svamp": SVAMP, "multiarith": MULTIARITH, "gsm-hard": HARD}
ALL |= {"gsm8k-aug-nl": {"question": "How many?", "steps": "Seven.", "answer": "7"}}


@pytest.mark.parametrize("corpus", ALL)
def test_a_corpus_is_recognised_by_its_records(lines: Any, tmp_path: Path, corpus: str) -> None:
    rows = lines("auto", *[ALL[corpus]] * 3)
    assert resolve(Source(location=str(tmp_path / "corpus.jsonl"))).corpus == corpus
    assert rows == lines(corpus, *[ALL[corpus]] * 3)


def test_lines_of_text_are_recognised_by_their_marks(tmp_path: Path) -> None:
    for name, line in (("gsm8k-aug", "How many?||<<3+4=7>> #### 7"), ("gsm8k-aug-nl", "How many?||It is 7. #### 7")):
        file = tmp_path / "lines.txt"
        file.write_text(f"{line}\n" * 3)
        assert resolve(Source(location=str(file))).corpus == name


def test_records_of_no_known_form_are_told_with_their_fields(lines: Any) -> None:
    with pytest.raises(SourceError, match=r"of no known corpus: found the fields prompt, reply; name its fields with"):
        lines("auto", "broken", {"prompt": "q", "reply": "a"})


def test_a_file_that_begins_unreadably_is_told_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xff\n" * 3)
    with pytest.raises(
        SourceError, match=r"begins with nothing readable: line 1 is not UTF-8: .*; is it the right file"
    ):
        resolve(Source(location=str(file)))


def test_the_word_toy_is_the_toy_corpus() -> None:
    assert resolve(Source(location="toy")).corpus == "toy"


# Surveys.


def test_a_survey_counts_rows_rejects_repeats_and_characters(tmp_path: Path) -> None:
    rows = [PLAIN, "broken", PLAIN, PLAIN | {"cot": "33"}, PLAIN | {"id": "other"}]
    found = survey(Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)), corpus="generic"))
    assert (found.rows, found.rejects, found.duplicates, found.duplicate_ids) == (4, 1, 2, 2)
    assert found.characters == {"3": 5, "+": 3, "4": 3, "=": 3, "7": 3}


# Sources that can't be right.

OF_GSM8KS_FIELDS = {("gsm8k", "generic"), ("gsm8k", "gsm8k-aug")}


@pytest.mark.parametrize(
    ("corpus", "records"),
    [pair for pair in permutations(RECORDS, 2) if pair not in OF_GSM8KS_FIELDS],
)
def test_a_corpus_of_another_kind_is_refused_and_the_right_one_named(lines: Any, corpus: str, records: str) -> None:
    with pytest.raises(SourceError) as raised:
        lines(corpus, RECORDS[records])
    message = str(raised.value)
    assert f"is not a {corpus} corpus: no field" in message
    assert all(field in message for field in RECORDS[records])
    assert f"it reads as --corpus {records}" in message


@pytest.mark.parametrize("records", ["generic", "gsm8k-aug"])
def test_records_with_the_fields_of_gsm8k_but_without_its_mark_are_refused_too(lines: Any, records: str) -> None:
    with pytest.raises(SourceError, match=f'no "####" before the answer; it reads as --corpus {records}'):
        lines("gsm8k", *[RECORDS[records]] * 12)


def test_records_of_a_corpus_that_are_merely_bad_are_all_rejects(lines: Any) -> None:
    found = lines("gsm8k", *[{"question": "q", "answer": "seven"}] * 12)
    assert [entry.reason for entry in found] == ['no "####" before the answer'] * 12


def test_fields_of_no_corpus_are_to_be_named(lines: Any) -> None:
    with pytest.raises(
        SourceError, match=r"found prompt, reply; name its fields with --corpus generic --question-field"
    ):
        lines("gsm8k", {"prompt": "q", "reply": "a"})


def test_an_unknown_corpus_lists_the_known_ones() -> None:
    with pytest.raises(UnknownCorpus, match="unknown corpus 'gsm9k': known are auto, gsm8k, gsm8k-aug, gsm8k-aug-nl, "):
        Source(location="x", corpus="gsm9k")


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"split": "a/b"}, {"split": ""}, {"split": "tr ain"}])
def test_options_that_make_no_source_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Source(location="x", corpus="toy", **options)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_source_without_records_is_refused(lines: Any, content: str) -> None:
    with pytest.raises(SourceError, match="holds no records"):
        lines("generic", content)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(SourceError, match=r"no file or folder nowhere\.jsonl, and it is no Hub dataset id"):
        list(read(Source(location="nowhere.jsonl", corpus="generic")))


def test_a_folder_without_corpus_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(
        SourceError, match=r"no \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.txt, \.parquet, \.arrow files"
    ):
        list(read(Source(location=str(tmp_path), corpus="generic")))


@pytest.mark.parametrize("content", ["{ broken", "\ufeff", "[" * 100_000, "9" * 5000])
def test_a_json_file_that_is_no_document_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "corpus.json"
    file.write_text(content)
    with pytest.raises(SourceError, match=r"is not one JSON document: .*a record a line is \.jsonl"):
        list(read(Source(location=str(file), corpus="generic")))


# Files, folders, limits, ids.


def test_a_json_file_holds_a_list_of_records_or_one(tmp_path: Path) -> None:
    for content, count in (([PLAIN, PLAIN], 2), (PLAIN, 1)):
        file = tmp_path / "corpus.json"
        file.write_text(json.dumps(content))
        assert (
            list(read(Source(location=str(file), corpus="generic"))) == [Row("one", "How many?", "3+4=7", "7")] * count
        )


def test_a_folder_is_read_file_after_file_in_order_of_name(tmp_path: Path) -> None:
    for folder, name in (("b", "1.json"), ("a", "2.json"), ("a", "1.json")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(json.dumps(MATH | {"unique_id": f"{folder}/{name}"}))
    (tmp_path / "README.md").write_text("not a record")
    rows = list(read(Source(location=str(tmp_path), corpus="math")))
    assert [row.id for row in rows] == ["a/1.json", "a/2.json", "b/1.json"]


def test_the_limit_counts_records_rejects_included(lines: Any) -> None:
    records = [PLAIN, "broken", PLAIN, PLAIN]
    assert [len(lines("generic", *records, limit=limit)) for limit in (1, 2, 3, 9)] == [1, 2, 3, 4]


def test_ids_are_the_records_own_or_their_place(lines: Any) -> None:
    records = [PLAIN, PLAIN | {"id": 17}, {key: PLAIN[key] for key in ("question", "cot", "answer")}]
    ids = [row.id for row in lines("generic", *records, split="test")]
    assert ids == ["one", "17", "generic-test-000002"]


def test_ids_do_not_depend_on_the_limit(lines: Any) -> None:
    whole = [row.id for row in lines("gsm8k", *[GSM8K] * 20)]
    assert [row.id for row in lines("gsm8k", *[GSM8K] * 20, limit=5)] == whole[:5]
    assert len(set(whole)) == 20


def test_reading_twice_gives_the_same(lines: Any) -> None:
    records = [GSM8K, "broken", {"question": "q", "answer": "none"}]
    assert lines("gsm8k", *records) == lines("gsm8k", *records)


# The toy corpus.


def test_the_toy_corpus_needs_no_file() -> None:
    rows = list(read(Source(location="toy", corpus="toy", split="test", limit=5)))
    assert [row.id.rpartition("-")[0] for row in rows] == [f"toy-test-{index:06d}" for index in range(5)]
    assert all(f"{row.cot.count('<<')}steps" == row.id.rpartition("-")[2] for row in rows)


def test_the_toy_corpus_ends_where_no_limit_is_given() -> None:
    assert sum(1 for _ in read(Source(location="toy", corpus="toy"))) == TOY_ROWS


def test_the_toy_corpus_is_as_hard_as_its_place_says() -> None:
    source = Source(location="toy:7-8", limit=20)
    assert {row.id.rpartition("-")[2] for row in read(source)} == {"7steps", "8steps"}
    usual, named, hard = (describe(Source(location=place)) for place in ("toy", "toy:3-6", "toy:7-8"))
    assert usual == named != hard


def test_toy_problems_of_no_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="1 to 20 steps"):
        resolve(Source(location="toy:0"))


def test_the_toy_corpus_has_three_splits() -> None:
    with pytest.raises(UsageError, match="has the splits train, validation, test, got 'dev'"):
        list(read(Source(location="toy", corpus="toy", split="dev")))


# What identifies a source.

AS_GSM8K = {"calc": "strip", "latex": "raw", "asymptote": "keep"}


def test_files_are_identified_by_their_contents(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "corpus.jsonl", [GSM8K])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for location in (file, tmp_path):
        source = Source(location=str(location), corpus="gsm8k", limit=3)
        assert describe(source) == {"limit": 3, "files": {"corpus.jsonl": digest}} | AS_GSM8K


def test_files_of_one_name_in_two_folders_are_both_identified(tmp_path: Path) -> None:
    for folder in ("algebra", "geometry"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.json").write_text(json.dumps(MATH | {"problem": folder}))
    assert sorted(describe(Source(location=str(tmp_path), corpus="math"))["files"]) == [
        "algebra/1.json",
        "geometry/1.json",
    ]


def test_fields_and_seed_are_part_of_what_they_decide(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "corpus.jsonl", [PLAIN])
    assert describe(Source(location=str(file), corpus="generic"))["fields"] == ["question", "cot", "answer", "id"]
    one, two = (describe(Source(location="toy", corpus="toy", seed=seed)) for seed in (1, 2))
    assert one != two


# Real corpora.


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "corpus", "rows", "rejects", "duplicates"),
    [
        ("gsm8k_train.jsonl", "gsm8k", 7473, 0, 0),
        ("gsm8k_aug_valid.txt", "gsm8k-aug", 494, 6, 0),  # six questions without a step
        ("math500.jsonl", "math", 500, 0, 0),
        ("multiarith.json", "multiarith", 600, 0, 20),
        ("svamp.json", "svamp", 1000, 0, 0),
    ],
)
def test_real_corpora_are_recognised_and_read_whole(
    rot_data: Path, name: str, corpus: str, rows: int, rejects: int, duplicates: int
) -> None:
    source = resolve(Source(location=str(rot_data / name)))
    assert source.corpus == corpus
    found = survey(source)
    assert (found.rows, found.rejects, found.duplicates, found.duplicate_ids) == (rows, rejects, duplicates, 0)


@pytest.mark.data
def test_all_of_math_becomes_unicode(rot_data: Path) -> None:
    source = Source(location=str(rot_data / "math500.jsonl"), latex="unicode", asymptote="mark")
    assert [row for row in read(source) if isinstance(row, Reject) or "\\frac" in row.cot or "[asy]" in row.cot] == []


# The Hub, which a stand-in plays.


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A Hub whose one dataset has two gsm8k records and breaks off after them if its split is called broken."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(
        name: str, config: str | None, *, split: str, revision: str | None, streaming: bool
    ) -> Iterator[dict[str, str]]:
        asked.append((name, config, split, revision, streaming))
        if name == "someone/absent":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

        def stream() -> Iterator[dict[str, str]]:
            yield from (GSM8K, GSM8K | {"question": "Which?"})
            if split == "broken":
                raise ConnectionError("the line went dead")

        return stream()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha=f"commit of {name}")
    )
    return asked


def test_a_hub_dataset_is_streamed(hub: list[Any]) -> None:
    source = Source(location="openai/gsm8k", corpus="gsm8k", config="main", split="test")
    assert [(row.id, row.question) for row in read(source)] == [
        ("gsm8k-test-000000", "How many?"),
        ("gsm8k-test-000001", "Which?"),
    ]
    assert hub == [("openai/gsm8k", "main", "test", None, True)]


def test_a_hub_dataset_is_identified_by_its_commit(hub: list[Any]) -> None:
    assert describe(Source(location="openai/gsm8k", corpus="gsm8k", config="main")) == {
        "limit": None,
        "hub": "openai/gsm8k",
        "config": "main",
        "revision": "commit of openai/gsm8k",
        **AS_GSM8K,
    }


def test_a_resolved_hub_dataset_is_read_at_its_commit(hub: list[Any]) -> None:
    source = resolve(Source(location="openai/gsm8k", config="main"))
    assert (source.corpus, source.revision) == ("gsm8k", "commit of openai/gsm8k")
    list(read(source))
    assert hub[-1] == ("openai/gsm8k", "main", "train", "commit of openai/gsm8k", True)


def test_an_absent_hub_dataset_is_refused(hub: list[Any]) -> None:
    with pytest.raises(
        SourceError, match=r"someone/absent \(config None, split train\) can't be read: .*check its path"
    ):
        list(read(Source(location="someone/absent", corpus="gsm8k")))


def test_a_stream_that_breaks_off_is_no_shorter_corpus(hub: list[Any]) -> None:
    with pytest.raises(SourceError, match="the line went dead"):
        list(read(Source(location="openai/gsm8k", corpus="gsm8k", split="broken")))


def test_a_hub_that_does_not_answer_is_an_error_not_an_empty_revision() -> None:
    with pytest.raises(SourceError, match="the Hub does not answer for dataset openai/gsm8k"):
        describe(Source(location="openai/gsm8k", corpus="gsm8k"))


@pytest.mark.parametrize("error", [huggingface_hub.utils.httpx.ConnectError, datasets.exceptions.DatasetsError])
def test_an_error_of_the_hubs_clients_is_no_traceback(
    hub: list[Any], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise error("no such host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    for function in (resolve, lambda source: list(read(source))):
        with pytest.raises(SourceError, match="no such host"):
            function(Source(location="openai/gsm8k", corpus="gsm8k"))


def test_without_network_a_hub_dataset_can_not_be_read() -> None:
    with pytest.raises(SourceError, match="the Hub dataset someone/absent"):
        list(read(Source(location="someone/absent", corpus="gsm8k")))
