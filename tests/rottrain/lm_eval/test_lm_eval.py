"""`python -m rottrain.lm_eval`: the harness's command in a process of its own, on a task of five questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rotdata.errors import UsageError
from rottrain.generation.generate import RoT
from tests.helpers import REPOSITORY, Result

FOLDER = Path(__file__).parent
QUESTIONS = [json.loads(line)["question"] for line in (FOLDER / "figs.jsonl").read_text().splitlines()]


def harness(out: Path, model_args: str, *options: object, task: str = "figs") -> Result:
    """Run the harness on the model `rot` and the tasks beside this file."""
    command = ["--model", "rot", "--model_args", model_args, "--include_path", FOLDER, "--tasks", task]
    done = subprocess.run(
        [sys.executable, "-m", "rottrain.lm_eval", *map(str, command), *map(str, options)],
        cwd=REPOSITORY,
        env=os.environ | {"HF_HOME": str(out / "hub"), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def read(out: Path, pattern: str) -> Any:
    [file] = out.rglob(pattern)
    return (
        [json.loads(line) for line in file.read_text().splitlines()]
        if file.suffix == ".jsonl"
        else json.loads(file.read_text())
    )


@pytest.mark.slow
def test_a_task_gets_what_generate_says(stage2_checkpoint: Path, tmp_path: Path) -> None:
    options = ("--batch_size", 3, "--log_samples", "--output_path", tmp_path / "out")
    done = harness(tmp_path, f"pretrained={stage2_checkpoint},budget=3,feedback=latent", *options)
    assert done.code == 0, done.err
    assert "rot: 5 questions, 3.0 latents each on average" in done.err
    made = RoT.from_pretrained(stage2_checkpoint).generate(QUESTIONS, budget=3, max_answer_tokens=16)
    samples = {each["doc"]["question"]: each for each in read(tmp_path / "out", "samples_figs_*.jsonl")}
    assert [samples[each.question]["resps"] for each in made] == [[[each.reply.split("\n")[0]]] for each in made]
    assert [samples[question]["arguments"]["gen_args_0"]["arg_0"] for question in QUESTIONS] == QUESTIONS
    results = read(tmp_path / "out", "results_*.json")["results"]["figs"]
    right = [each["exact_match"] for each in samples.values()]
    assert results["exact_match,declared"] == sum(right) / len(QUESTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "task", "code", "message"),
    [
        ("", "figs_scored", 2, "figs_scored asks for log-likelihoods; take a task whose output_type is generate_until"),
        (
            ",budgett=3",
            "figs",
            2,
            "--model_args of rot are pretrained, model, budget, stop, feedback, seed; got budgett",
        ),
    ],
)
def test_what_it_can_not_do_is_one_line(
    stage2_checkpoint: Path, tmp_path: Path, changed: str, task: str, code: int, message: str
) -> None:
    done = harness(tmp_path, f"pretrained={stage2_checkpoint}{changed}", task=task)
    assert done.code == code, done.err
    assert message in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def model(stage2_checkpoint: Path) -> Any:
    from rottrain.lm_eval.model import RotModel

    return RotModel(str(stage2_checkpoint), budget=2)


def request(question: str, **settings: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type="generate_until", doc={}, arguments=(question, settings), idx=0)


def test_replies_keep_the_order_of_requests_whose_settings_differ(model: Any, stage2_checkpoint: Path) -> None:
    asked = [request(question, max_gen_toks=1 + place % 2) for place, question in enumerate(QUESTIONS)]
    rot = RoT.from_pretrained(stage2_checkpoint)
    alone = [
        rot.generate([question], budget=2, max_answer_tokens=1 + place % 2)[0].reply
        for place, question in enumerate(QUESTIONS)
    ]
    assert model.generate_until(asked) == alone


def test_a_reply_ends_before_the_first_stop(model: Any) -> None:
    [whole] = model.generate_until([request(QUESTIONS[0], max_gen_toks=8)])
    middle = whole[len(whole) // 2]
    [cut] = model.generate_until([request(QUESTIONS[0], max_gen_toks=8, until=[middle])])
    assert cut == whole.split(middle)[0] != whole


def test_settings_that_are_not_to_be_had_are_named(model: Any) -> None:
    with pytest.raises(UsageError, match="num_beams; leave them out"):
        model.generate_until([request(QUESTIONS[0], num_beams=4)])


def test_examples_before_a_question_are_refused(model: Any) -> None:
    turn = {"role": "user", "content": QUESTIONS[0]}
    assert model.apply_chat_template([turn]) == QUESTIONS[0]
    with pytest.raises(UsageError, match="num_fewshot 0"):
        model.apply_chat_template([{"role": "system", "content": "Be brief."}, turn])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "many"}, "--batch_size is a number"),
        ({"batch_size": 0}, "--batch_size is a number"),
        ({"budget": -1}, "the budget is at least 0"),
        ({"stop": 2.0}, "a stop is a probability"),
    ],
)
def test_options_that_can_not_be_right_are_refused_at_once(
    stage2_checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    from rottrain.lm_eval.model import RotModel

    with pytest.raises(UsageError, match=message):
        RotModel(str(stage2_checkpoint), **options)
