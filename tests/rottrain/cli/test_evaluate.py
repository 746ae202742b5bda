"""rottrain eval: JSON whose keys are pinned, tables for people, what is refused."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rotdata.encoders.models import find_model
from rottrain.evaluation import evaluate
from tests.helpers import Result, assert_refused, write_jsonl
from tests.rottrain.samples import SUMS

Run = Callable[..., Result]


def test_eval_prints_its_pinned_keys_for_each_mode(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path
) -> None:
    modes = ("--modes", "rot,no-cot")
    result = run_rottrain(
        "eval", stage2_checkpoint, short_rows, "--corpus", "generic", "--limit", 3, "--budget", 2, *modes, "--json"
    )
    assert result.code == 0
    found = json.loads(result.out)
    pinned = {"mode", "corpus", "n", "accuracy", "reasoning_tokens", "seconds_per_question", "budget"}
    assert all(pinned <= entry.keys() for entry in found)
    assert [(entry["mode"], entry["corpus"], entry["n"], entry["budget"]) for entry in found] == [
        ("rot", "generic", 3, 2),
        ("no-cot", "generic", 3, None),
    ]
    assert found[0]["reasoning_tokens"] == 2


def test_eval_leaves_out_rows_without_an_answer_and_says_so(
    run_rottrain: Run, stage2_checkpoint: Path, tmp_path: Path
) -> None:
    record = {"question": "2+2?", "cot": "4", "answer": "4"}
    file = write_jsonl(tmp_path / "rows.jsonl", [record, "{ broken"])
    result = run_rottrain("eval", stage2_checkpoint, file, "--corpus", "generic", "--budget", 1)
    assert "left out, since it can't be graded: generic-test-000001 (line 2)" in result.err
    assert result.out.splitlines()[2].startswith("| rot | stage2 | generic | 1 | ")


def test_eval_takes_budgets_sources_and_a_suite_s_files(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path, tmp_path: Path
) -> None:
    problem = {"problem": "x^2=4?", "solution": "\\boxed{2}", "answer": "2", "unique_id": "a"}
    write_jsonl(tmp_path / "math500.jsonl", [problem])
    result = run_rottrain(
        "eval", stage2_checkpoint, short_rows, short_rows, "--suite", "math", "--data", tmp_path, "--limit", 2,
        "--budget", "0,auto", "--modes", "rot,no-cot", "--tokenizer", find_model("tiny").path, "--paper",
        "--log", tmp_path / "log.parquet", "--max-answer-tokens", 2,
    )  # fmt: skip
    assert result.code == 0, result.err
    everything, as_paper, said = result.out.split("\n\n")
    cells = [line.split(" | ") for line in everything.splitlines()[2:]]
    assert [(line[0].strip("| "), line[2], line[3], line[-1].strip("| ")) for line in cells] == [
        (mode, corpus, n, budget)
        for mode, budget in (("rot", "0"), ("rot", "4"), ("no-cot", "-"))
        for corpus, n in (("generic", "2"), ("generic", "2"), ("math", "1"))
    ]
    assert as_paper.splitlines()[0] == "| method | MATH | #L |"
    assert as_paper.splitlines()[-1].startswith("| RoT, Qwen3-VL-4B (arXiv 2601.14750) | 33.2% | 64 |")
    assert "Wilson over questions" in said
    assert pq.read_table(tmp_path / "log.parquet").num_rows == 15


def test_an_evaluation_that_breaks_off_has_logged_what_it_asked(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine, asked = evaluate.examine, []

    def once(*arguments: Any) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.append(examine(*arguments))
        return asked[0]

    monkeypatch.setattr(evaluate, "examine", once)
    result = run_rottrain(
        "eval", stage2_checkpoint, short_rows, "--limit", 2, "--budget", "1,2", "--log", tmp_path / "log.parquet"
    )
    assert result.code == 130
    assert pq.read_table(tmp_path / "log.parquet")["budget"].to_pylist() == [1, 1]


def test_eval_asks_the_checkpoint_that_was_taught_a_mode(
    run_rottrain: Run, stage1_checkpoint: Path, cot_checkpoint: Path, short_rows: Path
) -> None:
    asked = ("eval", stage1_checkpoint, short_rows, "--limit", 2, "--max-cot-tokens", 3, "--json")
    result = run_rottrain(*asked, "--modes", "cot", "--cot-checkpoint", cot_checkpoint)
    assert [(entry["mode"], entry["answered_by"]) for entry in json.loads(result.out)] == [("cot", "sft")]
    result = run_rottrain(*asked, "--modes", "cot")
    assert [entry["answered_by"] for entry in json.loads(result.out)] == ["base model"]
    refused = run_rottrain(*asked, "--modes", "no-cot", "--no-cot-checkpoint", cot_checkpoint)
    assert_refused(refused, 1, "--no-cot-checkpoint takes one of `rottrain sft --mode no-cot`")


def test_eval_samples_several_seeds(run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path) -> None:
    asked = ("eval", stage2_checkpoint, short_rows, "--limit", 2, "--budget", 1, "--max-answer-tokens", 2, "--json")
    [found] = json.loads(run_rottrain(*asked, "--seeds", 2).out)
    assert (found["seeds"], found["temperature"], len(found["accuracies"])) == (2, 1.0, 2)
    assert found["interval"]["method"] == "Student's t over seeds"


def test_eval_votes_and_counts_what_was_read(run_rottrain: Run, picture_checkpoint: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "sums.jsonl", SUMS[:3])
    asked = ("eval", picture_checkpoint, rows, "--corpus", "generic", "--budget", 6, "--votes", 3, "--json")
    result = run_rottrain(*asked, "--log", tmp_path / "log.parquet")
    assert result.code == 0, result.err
    [found] = json.loads(result.out)
    assert (found["votes"], found["temperature"], found["top_p"], found["feedback"]) == (3, 1.0, 0.9, "picture")
    assert 0 <= found["single_accuracy"] <= 1
    assert 0 < found["agreement"] <= 1
    assert found["read"]["latents"] == pytest.approx(found["reasoning_tokens"] * 3, abs=0.1)
    assert all(thought for thought in pq.read_table(tmp_path / "log.parquet")["thought"].to_pylist())
    told = run_rottrain(*asked[:-1], "--feedback", "latent")
    assert "with latent feedback nothing in a thought is sampled: 3 votes answer after the same one" in told.err
    assert "the majority of 3 samples is right in" in told.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--budget", -1), 2, "the budget is at least 0 latents, got -1"),
        (("--votes", 2, "--temperature", 0), 2, "2 votes at temperature 0 are the same 2 times"),
        (("--seeds", 0), 2, "--seeds counts runs and is at least 1"),
        (("--budget", "8,many"), 2, "a budget is a number of latents, or auto; got 'many'"),
        (("--log", "log.csv"), 2, "--log names a .parquet file, got log.csv"),
        (("--suite", "math", "--data", "absent"), 1, "absent is no folder"),
        (("--modes", "rot,cto"), 2, "--modes takes rot, cot, no-cot, got 'cto'"),
        (("--modes", ""), 2, "--modes takes rot, cot, no-cot"),
        (("--corpus", "gsm9k"), 2, "unknown corpus 'gsm9k'"),
        (("--corpus", "math"), 1, "it reads as --corpus generic"),
    ],
)
def test_an_evaluation_that_can_not_be_is_refused(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    assert_refused(
        run_rottrain("eval", stage2_checkpoint, short_rows, "--corpus", "generic", *arguments), code, message
    )


def test_an_evaluation_of_nothing_exits_2(run_rottrain: Run, stage2_checkpoint: Path) -> None:
    assert_refused(run_rottrain("eval", stage2_checkpoint), 2, "there is nothing to evaluate on: name sources")


def test_an_evaluation_without_usable_rows_exits_2(run_rottrain: Run, stage2_checkpoint: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", ["{ broken"])
    result = run_rottrain("eval", stage2_checkpoint, file, "--corpus", "generic")
    assert_refused(result, 2, "there are no rows to evaluate on")


def test_eval_asks_again_with_other_numbers(run_rottrain: Run, stage2_checkpoint: Path, tmp_path: Path) -> None:
    rows = [
        {"question": f"Ann had {n} figs and 7 nuts.", "cot": f"<<{n}+7={n + 7}>>", "answer": f"{n + 7}"}
        for n in (5, 6, 12)
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    problem = write_jsonl(tmp_path / "math.jsonl", [{"problem": "x^2=4?", "solution": "\\boxed{2}", "answer": "2"}])
    asked = ("eval", stage2_checkpoint, file, problem, "--budget", 1, "--max-answer-tokens", 2, "--renumber", 2)
    result = run_rottrain(*asked, "--json", "--log", tmp_path / "log.parquet")
    assert result.code == 0, result.err
    first, second = json.loads(result.out)
    assert (first["n"], first["renumbered"]["n"], first["renumbered"]["times"]) == (3, 3, 2)
    assert len(first["renumbered"]["accuracies"]) == 2
    assert second["renumbered"] is None
    assert "not asked with other numbers: no question of" in result.err
    ids = pq.read_table(tmp_path / "log.parquet")["id"].to_pylist()
    assert len(ids) == 3 + 6 + 1
    assert sum(each.endswith(("-n0", "-n1")) for each in ids) == 6
    table = run_rottrain(*asked).out.split("\n\n")[1].splitlines()
    assert table[0].startswith("| mode | answered by | corpus | budget | questions | as they stand | other numbers |")
    assert table[2].startswith("| rot | stage2 | generic | 1 | 3 | ")
    assert_refused(run_rottrain("eval", stage2_checkpoint, problem, "--renumber", 1), 1, "with other numbers")


def test_a_log_into_a_pipe_is_one_whole_file(run_rottrain: Run, stage2_checkpoint: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "log.parquet"
    os.mkfifo(pipe)
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.append(pipe.read_bytes()), daemon=True)
    reader.start()
    options = ("--limit", 1, "--budget", "1,2", "--max-answer-tokens", 1, "--log", pipe)
    result = run_rottrain("eval", stage2_checkpoint, "toy", *options)
    reader.join(60)
    assert result.code == 0, result.err
    assert pq.read_table(io.BytesIO(said[0])).column("budget").to_pylist() == [1, 2]
