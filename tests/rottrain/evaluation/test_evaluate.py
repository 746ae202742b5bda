"""The table: every row stays in the denominator, every mode is asked the right way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import torch

from rotdata.corpora import Row
from rotdata.errors import CheckpointError, SourceError, UsageError
from rottrain.config import Feedback
from rottrain.evaluation import row_log
from rottrain.evaluation.distributed import Ranks
from rottrain.evaluation.evaluate import Exam, Judged, Result, as_table, evaluate, examine, notes, samplings
from rottrain.evaluation.modes import MODES, Lineup, thinker
from rottrain.evaluation.paper_tables import GRADE_SCHOOL, PAPER, beside, paper_table
from rottrain.evaluation.suites import find_tests
from rottrain.generation import generate
from rottrain.generation.decoding import Sampling
from rottrain.generation.generate import Generation, RoT, Timings
from tests.rottrain.samples import SUMS

ROWS = [Row(str(n), f"{n}+{n}?", f"<<{n}+{n}={2 * n}>>", str(2 * n)) for n in range(5)]


def reply_to(question: str, *, tokens: int = 4, latents: bool = True) -> Generation:
    """The right answer for questions of even numbers, a wrong one for odd ones."""
    number = int(question.partition("+")[0])
    return Generation(
        question=question,
        reply=f"#### {2 * number + number % 2}",
        reasoning_tokens=tokens,
        seconds=0.5,
        timings=Timings(prefill_s=0.1, latents_s=0.3, answer_s=0.1),
        answer_tokens=2,
        latents_KD=torch.zeros(tokens, 2) if latents else None,
    )


class StandInRoT:
    """Answers without a model; raises `error` for questions in `failing`, and notes how it was called."""

    def __init__(self, *, failing: Sequence[str] = (), error: Exception | None = None) -> None:
        self.base = SimpleNamespace(base=nullcontext)
        self.config = SimpleNamespace(stage="stage2")
        self.calls: list[tuple[list[str], int, int]] = []
        self.seeds: list[int] = []
        self.reply = reply_to
        self._failing, self._error = failing, error or RuntimeError("out of memory")

    def budget(self, asked: int) -> int:
        return asked

    def check_stop(self, stop: None) -> None:
        pass

    def feedback(self, asked: Feedback | None) -> Feedback:
        return asked or "latent"

    def stream(
        self, questions: list[str], *, budget: int, batch_size: int, sampling: Sampling, **_: Any
    ) -> Iterator[Generation]:
        self.calls.append((questions, budget, batch_size))
        self.seeds.append(sampling.seed)
        if set(questions) & set(self._failing):
            raise self._error
        return (self.reply(question, tokens=budget) for question in questions)


def judge(rot: StandInRoT, rows: Sequence[Row] = ROWS, **options: Any) -> tuple[Result, list[Judged]]:
    return evaluate(cast("RoT", rot), rows, "rot", **{"corpus": "toy", "budget": 4} | options)


def test_a_result_has_the_pinned_keys() -> None:
    result, _ = judge(StandInRoT())
    wilson = {"low": 0.23072, "high": 0.88238, "method": "Wilson over questions"}
    assert dataclasses.asdict(result) == {
        "mode": "rot",
        "corpus": "toy",
        "n": 5,
        "accuracy": 3 / 5,
        "reasoning_tokens": 4.0,
        "seconds_per_question": 0.5,
        "budget": 4,
        "failures": 0,
        "interval": wilson,
        "flexible_accuracy": 3 / 5,
        "flexible_interval": wilson,
        "answered_by": "stage2",
        "seeds": 1,
        "accuracies": [3 / 5],
        "temperature": 0.0,
        "top_p": 1.0,
        "stop": None,
        "feedback": "latent",
        "read": None,
        "votes": 1,
        "single_accuracy": None,
        "agreement": None,
        "cut": 0,
        "answer_tokens": 2.0,
        "timings": {"prefill_s": 0.1, "latents_s": 0.3, "answer_s": 0.1},
        "text_tokens": None,
        "tokenizer": None,
        "paper": None,
        "renumbered": None,
    }


def test_every_row_is_judged_in_order() -> None:
    _, judged = judge(StandInRoT(), batch_size=2)
    assert [entry.row for entry in judged] == ROWS
    assert [entry.correct for entry in judged] == [True, False, True, False, True]
    assert [entry.answer for entry in judged] == ["0", "3", "4", "7", "8"]


def test_budget_and_batches_are_passed_on() -> None:
    rot = StandInRoT()
    judge(rot, budget=7, batch_size=2)
    assert [(len(questions), budget, size) for questions, budget, size in rot.calls] == [
        (2, 7, 2),
        (2, 7, 2),
        (1, 7, 1),
    ]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("too long"), IndexError("position")])
def test_a_row_that_fails_counts_as_wrong_and_stays_in_n(error: Exception) -> None:
    result, judged = judge(StandInRoT(failing=["2+2?"], error=error))
    assert (result.n, result.failures, result.accuracy) == (5, 1, 2 / 5)
    assert (result.reasoning_tokens, result.seconds_per_question) == (4.0, 0.5)
    failed = judged[2]
    assert (failed.row, failed.generation, failed.answer, failed.correct) == (ROWS[2], None, "", False)
    assert failed.error == f"{type(error).__name__}: {error}"


def test_a_row_that_fails_takes_no_other_with_it() -> None:
    rot = StandInRoT(failing=["2+2?"])
    _, judged = judge(rot)
    assert [entry.error is None for entry in judged] == [True, True, False, True, True]
    assert [len(questions) for questions, _, _ in rot.calls] == [5, 2, 3, 1, 2]  # halves, until one is left alone


def test_where_all_fails_nothing_is_divided_by_zero() -> None:
    result, _ = judge(StandInRoT(failing=[row.question for row in ROWS]))
    assert (result.n, result.failures, result.accuracy, result.reasoning_tokens) == (5, 5, 0.0, 0.0)


def test_an_answer_is_wrong_where_there_is_none() -> None:
    rot = StandInRoT()
    rot.reply = lambda question, **_: dataclasses.replace(reply_to(question), reply="####")
    assert judge(rot)[0].accuracy == 0


def test_what_the_user_got_wrong_is_no_failing_row() -> None:
    with pytest.raises(UsageError, match="the budget"):
        judge(StandInRoT(failing=["2+2?"], error=UsageError("the budget is at least 1")))


def test_latents_are_kept_only_where_asked() -> None:
    for kept in (True, False):
        _, judged = judge(StandInRoT(), keep_latents=kept)
        assert {entry.generation.latents_KD is not None for entry in judged} == {kept}


@pytest.mark.parametrize(("corpus", "correct"), [("math", True), ("gsm8k", False), ("toy", False), ("generic", False)])
def test_maths_corpora_are_graded_as_latex_and_the_others_as_numbers(corpus: str, correct: bool) -> None:
    rot = StandInRoT()
    rot.reply = lambda _question, **_: dataclasses.replace(reply_to("0+0?"), reply=r"#### \sqrt2")
    result, _ = judge(rot, [Row("a", "q", "c", r"\sqrt{2}")], corpus=corpus)
    assert result.accuracy == correct


def test_words_are_asked_of_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    rot = StandInRoT()
    asked: list[str] = []
    for name in ("in_words", "at_once"):

        def answer(backbone: Any, questions: list[str], *, name: str = name, **_: Any) -> list[Generation]:
            assert backbone is rot.base
            asked.append(name)
            return [reply_to(question, tokens=9, latents=False) for question in questions]

        monkeypatch.setattr(generate, name, answer)
    results = [evaluate(cast("RoT", rot), ROWS, mode, corpus="toy", budget=4)[0] for mode in ("cot", "no-cot")]
    assert asked == ["in_words", "at_once"]
    assert rot.calls == []
    assert [(result.mode, result.budget, result.answered_by, result.reasoning_tokens) for result in results] == [
        ("cot", None, "base model", 9.0),
        ("no-cot", None, "base model", 9.0),
    ]


def test_there_must_be_rows_and_batches() -> None:
    with pytest.raises(UsageError, match="there are no rows to evaluate on"):
        judge(StandInRoT(), [])
    for size in (0, -1):
        with pytest.raises(UsageError, match=f"the batch size is at least 1, got {size}"):
            judge(StandInRoT(), batch_size=size)


def test_the_last_number_of_a_reply_is_judged_beside_the_declared_one() -> None:
    rot = StandInRoT()
    rot.reply = lambda question, **_: dataclasses.replace(reply_to(question), reply="It is 4, surely.")
    result, judged = judge(rot)
    assert (result.accuracy, result.flexible_accuracy) == (0, 1 / 5)
    assert [(entry.answer, entry.flexible_answer) for entry in judged] == [("", "4")] * 5


# Several runs, several processes.


def test_several_seeds_give_their_mean_and_student_s_interval() -> None:
    rot = StandInRoT()
    rot.reply = lambda question, tokens: dataclasses.replace(
        reply_to(question), reply=f"#### {2 * int(question[0])}" if int(question[0]) < 2 + rot.seeds[-1] else "####"
    )
    exam = Exam(corpus="toy", rows=ROWS, samplings=samplings(3))
    result, runs = examine(thinker(cast("RoT", rot), budget=4), exam)
    assert rot.seeds == [0, 1, 2]
    assert [len(run) for run in runs] == [5, 5, 5]
    assert result.accuracies == [0.4, 0.6, 0.8]
    assert result.accuracy == pytest.approx(0.6)
    half = 4.303 * 0.2 / 3**0.5
    assert result.interval == {
        "low": pytest.approx(0.6 - half, abs=1e-4),
        "high": 1.0,
        "method": "Student's t over seeds",
    }
    assert (result.seeds, result.n, result.temperature, result.top_p) == (3, 5, 1.0, 0.9)


def test_runs_are_sampled_only_where_there_are_several_or_it_is_asked_for() -> None:
    assert samplings(1) == [Sampling()]
    assert samplings(2) == [Sampling(temperature=1.0, top_p=0.9, seed=seed) for seed in (0, 1)]
    assert samplings(1, temperature=0.7) == [Sampling(temperature=0.7)]
    assert samplings(2, temperature=0.5, top_p=1.0)[1] == Sampling(temperature=0.5, seed=1)
    with pytest.raises(UsageError, match="are the same 2 times"):
        samplings(2, temperature=0.0)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        samplings(0)


def test_of_several_samples_the_majority_s_answer_counts() -> None:
    rot = StandInRoT(failing=["2+2?"])
    said = {0: "8", 1: "", 2: "4", 3: "4.0", 4: "8", 5: "8"}  # by seed
    rot.reply = lambda question, tokens: dataclasses.replace(
        reply_to(question, tokens=tokens), reply=f"#### {said[rot.seeds[-1]]}"
    )
    exam = Exam(corpus="toy", rows=ROWS, samplings=samplings(2, votes=3), votes=3)
    result, runs = examine(thinker(cast("RoT", rot), budget=4), exam)
    assert list(dict.fromkeys(rot.seeds)) == [0, 1, 2, 3, 4, 5]
    assert [[entry.answer for entry in run] for run in runs] == [["8", "8", "", "8", "8"], ["8", "8", "", "8", "8"]]
    assert [[entry.votes for entry in run] for run in runs] == [[1, 1, 0, 1, 1], [2, 2, 0, 2, 2]]
    assert [[each.answer for each in entry.samples] for entry in runs[1][:1]] == [["4.0", "8", "8"]]
    assert (result.votes, result.failures) == (3, 2)
    assert result.accuracies == [1 / 5, 1 / 5]  # 4+4 alone
    assert result.single_accuracy == pytest.approx(3 / 30)
    assert result.agreement == pytest.approx((4 * 1 + 4 * 2) / 3 / 10)
    assert (result.reasoning_tokens, result.seconds_per_question, result.answer_tokens) == (12, 1.5, 6)
    assert result.timings == pytest.approx({"prefill_s": 0.3, "latents_s": 0.9, "answer_s": 0.3})
    assert "the majority of 3 samples is right in 20.0%, a single sample in 10.0%" in notes([result])
    entries = list(row_log.lines(result, runs))
    assert (entries[5]["reply"], entries[5]["votes"], entries[5]["reasoning_tokens"]) == ("#### 8", 2, 12)


def test_votes_are_sampled_and_not_more_than_can_be() -> None:
    assert samplings(1, votes=5) == [Sampling(temperature=1.0, top_p=0.9)]
    with pytest.raises(UsageError, match="5 votes at temperature 0 are the same 5 times"):
        Exam(corpus="toy", rows=ROWS, samplings=samplings(1, votes=5, temperature=0.0), votes=5)
    with pytest.raises(UsageError, match="1 to 10000 votes, got 0"):
        Exam(corpus="toy", rows=ROWS, votes=0)


def test_votes_on_sampled_thoughts_are_the_same_in_any_batch(picture_checkpoint: Path) -> None:
    rot = RoT.from_pretrained(picture_checkpoint, precision="float32")
    rows = [Row(str(n), row["question"], "", row["answer"]) for n, row in enumerate(SUMS[::8])]
    thinking = thinker(rot, budget=6)
    found = [
        examine(thinking, Exam(corpus="sums", rows=rows, samplings=samplings(1, votes=3), votes=3, batch_size=size))
        for size in (1, 3, 32)
    ]
    thoughts = [[[each.thought and each.thought.texts for each in entry.made] for entry in run] for _, [run] in found]
    assert thoughts[0] == thoughts[1] == thoughts[2]
    assert any(len({tuple(texts or ()) for texts in of_row}) > 1 for of_row in thoughts[0])  # they are sampled
    answers = [[[each.answer for each in entry.samples] for entry in run] for _, [run] in found]
    assert answers[0] == answers[1] == answers[2]
    assert all(each.thought and each.thought.predicted_KD is None for entry in found[0][1][0] for each in entry.made)
    result, _ = found[0]
    assert result.read is not None
    latents = sum(len(texts or ()) for of_row in thoughts[0] for texts in of_row)
    assert (result.read["latents"], result.read.keys()) == (latents, {"latents", "drawn", "unnamed", "unsure"})
    assert f"Of {latents} latents that were read, " in notes([result])


def test_rows_are_shared_out_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [str(number) for number in range(7)]
    shares = [list(Ranks(rank=rank, count=3).share(rows)) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows

    def gathered(parts: list[Any], own: list[str]) -> None:
        parts[:] = shares

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    assert Ranks(rank=1, count=3).gather(shares[1]) == rows


# Who is examined.


def test_a_checkpoint_in_words_must_have_been_taught_that(stage2_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"takes one of `rottrain sft --mode cot`: .* is a stage2 checkpoint"):
        Lineup(checkpoint=stage2_checkpoint, modes=["cot"], spoken={"cot": stage2_checkpoint})
    with pytest.raises(UsageError, match="--modes takes rot, cot, no-cot, got 'cto'"):
        Lineup(checkpoint=stage2_checkpoint, modes=["rot", "cto"])


def test_every_budget_is_a_candidate_and_words_come_after(stage2_checkpoint: Path) -> None:
    lineup = Lineup(checkpoint=stage2_checkpoint, modes=["no-cot", "rot"], budgets=[0, 2, "auto"])
    found = [(each.mode, each.name, each.budget) for each in lineup.candidates()]
    assert found == [("rot", "stage2", 0), ("rot", "stage2", 2), ("rot", "stage2", 4), ("no-cot", "base model", None)]


def test_the_base_model_is_loaded_alone_where_nothing_else_is_asked(
    stage1_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoT, "from_pretrained", lambda *_, **__: pytest.fail("no latents were asked for"))
    [only] = Lineup(checkpoint=stage1_checkpoint, modes=["no-cot"], max_answer_tokens=2).candidates()
    [made] = only.answer(["2+2?"], Sampling())
    assert made.answer_tokens <= 2


# Tables.


def test_the_table_for_people_has_a_line_a_result() -> None:
    result, _ = judge(StandInRoT())
    counted = dataclasses.replace(
        result, mode="cot", answered_by="sft", budget=None, text_tokens=2.5, tokenizer="qwen3"
    )
    table = as_table([result, counted])
    assert table.splitlines()[2:] == [
        "| rot | stage2 | toy | 5 | 60.0% [23.1, 88.2] | 60.0% | 4.0 | 0.5000 | 4 |",
        "| cot | sft | toy | 5 | 60.0% [23.1, 88.2] | 60.0% | 4.0 (2.5) | 0.5000 | - |",
    ]
    assert "in brackets those of qwen3" in notes([result, counted])
    assert MODES == ("rot", "cot", "no-cot")


def test_results_read_from_json_make_the_same_table() -> None:
    result, _ = judge(StandInRoT())
    again = Result(**json.loads(json.dumps(dataclasses.asdict(result))))
    assert as_table([again]) == as_table([result])


def test_what_did_not_go_well_is_noted() -> None:
    result, _ = judge(StandInRoT())
    assert "failed" not in notes([result])
    assert "Wilson over questions" in notes([result])
    worse = dataclasses.replace(result, failures=2, cut=3)
    assert "Generation failed for 2 questions. 3 replies were cut" in notes([worse])


# The log.


def test_the_log_has_a_line_for_every_row_of_every_run(tmp_path: Path) -> None:
    rot = StandInRoT(failing=["2+2?"])
    exam = Exam(corpus="toy", rows=ROWS, samplings=samplings(2))
    result, runs = examine(thinker(cast("RoT", rot), budget=4), exam)
    row_log.write(tmp_path / "log.parquet", list(row_log.lines(result, runs)))
    table = pq.read_table(tmp_path / "log.parquet")
    assert table.column_names == list(row_log.COLUMNS)
    entries = table.to_pylist()
    assert [(entry["seed"], entry["id"]) for entry in entries] == [(seed, row.id) for seed in (0, 1) for row in ROWS]
    assert entries[0] | {"question": ""} == {
        "mode": "rot",
        "answered_by": "stage2",
        "corpus": "toy",
        "budget": 4,
        "stop": None,
        "seed": 0,
        "id": "0",
        "question": "",
        "reference": "0",
        "answer": "0",
        "correct": True,
        "flexible_answer": "0",
        "flexible_correct": True,
        "error": None,
        "reply": "#### 0",
        "reasoning_tokens": 4,
        "answer_tokens": 2,
        "complete": True,
        "seconds": 0.5,
        "prefill_s": 0.1,
        "latents_s": 0.3,
        "answer_s": 0.1,
        "feedback": "latent",
        "thought": None,
        "votes": None,
    }
    assert (entries[2]["error"], entries[2]["reply"], entries[2]["correct"]) == (
        "RuntimeError: out of memory",
        None,
        False,
    )


# The paper's layout.


def of(corpus: str, accuracy: float, **more: Any) -> Result:
    return dataclasses.replace(judge(StandInRoT())[0], corpus=corpus, accuracy=accuracy, interval=None, **more)


def test_a_suite_s_table_has_the_paper_s_columns_and_on_request_its_figures() -> None:
    corpora = {"gsm8k-aug": 0.5, "gsm-hard": 0.1, "svamp": 0.7, "multiarith": 0.9, "math": 0.25}
    ours = [of(corpus, accuracy, budget=32) for corpus, accuracy in corpora.items()]
    lines = paper_table(ours).splitlines()
    assert lines == [
        "| method | GSM8k-Aug | GSM-Hard | SVAMP | MultiArith | avg | #L | MATH | #L |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| RoT (stage2, 32 latents) | 50.0% | 10.0% | 70.0% | 90.0% | 55.0% | 4.0 | 25.0% | 4.0 |",
    ]
    compared = [beside(result) for result in ours]
    assert compared[0].paper == {
        "source": "arXiv 2601.14750",
        "model": "Qwen3-VL-4B",
        "accuracy": 0.378,
        "reasoning_tokens": 32,
    }
    assert paper_table(compared).splitlines()[3:] == [
        "| RoT, Qwen3-VL-4B (arXiv 2601.14750) | 37.8% | 14.1% | 72.7% | 97.2% | 55.4% | 32 | 33.2% | 64 |"
    ]


def test_an_average_is_of_all_four_or_is_not_given() -> None:
    lines = paper_table([of("svamp", 0.7), of("toy", 0.2)]).splitlines()
    assert lines[0] == "| method | SVAMP | #L |"
    assert lines[2] == "| RoT (stage2, 4 latents) | 70.0% | 4.0 |"
    assert paper_table([of("toy", 0.2)]) == ""


def test_the_paper_s_averages_are_those_of_its_columns() -> None:
    for line in PAPER:
        assert sum(line.percent[name] for name in GRADE_SCHOOL) / 4 == pytest.approx(line.average, abs=0.06)


# Suites.


def test_a_suite_s_files_are_found_by_their_names(tmp_path: Path) -> None:
    for name in (
        "gsm8k_train.jsonl",
        "GSM8K-Aug_test.txt",
        "gsm8k_aug_valid.txt",
        "gsm8k.jsonl",
        "svamp.json",
        "notes",
    ):
        (tmp_path / name).write_text("")
    found, missing = find_tests(["grade-school", "grade-school"], tmp_path)
    assert [Path(source.location).name for source in found] == ["GSM8K-Aug_test.txt", "svamp.json"]
    assert missing == ["GSM-Hard", "MultiArith"]
    for folder, message in ((tmp_path, "holds no file of MATH"), (tmp_path / "no", "is no folder")):
        with pytest.raises(SourceError, match=message):
            find_tests(["math"], folder)


def test_without_a_folder_a_suite_is_read_from_the_hub() -> None:
    found, missing = find_tests(["math", "grade-school"], None)
    assert [source.location for source in found] == [
        "HuggingFaceH4/MATH-500",
        "whyNLP/gsm8k-aug",
        "reasoning-machines/gsm-hard",
        "ChilleD/SVAMP",
        "ChilleD/MultiArith",
    ]
    assert not missing
    assert not any(source.need_cot for source in found)
    assert find_tests([], None) == ([], [])
    with pytest.raises(UsageError, match="--suite takes grade-school, math, got 'maths'"):
        find_tests(["maths"], None)
