"""The command line: JSON whose keys are pinned, exit codes, help for everything, errors without tracebacks."""

from __future__ import annotations

import functools
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer.main

from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rottrain.cli import app
from rottrain.config import SftConfig, Stage1Config, Stage2Config
from rottrain.evaluation import evaluate
from rottrain.model import checkpoints
from rottrain.training.stages import RUN
from rottrain.training.trainer import complete_states
from tests.helpers import REPOSITORY, Result, contents, write_jsonl
from tests.rottrain import held

Run = Callable[..., Result]

SMALL = "batch_size: 4\nmax_steps: 2\nrollout: teacher\n"
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "peft", "numpy", "PIL")


@pytest.fixture
def recipe1(tmp_path: Path) -> Path:
    """A stage-1 recipe of two small steps."""
    file = tmp_path / "stage1.yaml"
    file.write_text(f"{SMALL}head: {{hidden: 16}}\n")
    return file


@pytest.fixture
def recipe2(tmp_path: Path) -> Path:
    """A stage-2 recipe of two small steps."""
    file = tmp_path / "stage2.yaml"
    file.write_text(f"{SMALL}lora: {{rank: 2}}\n")
    return file


@pytest.fixture
def stage1_arguments(embedded: Path, tiny_folder: Path, recipe1: Path, tmp_path: Path) -> list[object]:
    """`rottrain stage1` on the small shards."""
    return ["stage1", "--shards", embedded, "--model", tiny_folder, "--out", tmp_path / "out", "--config", recipe1]


def assert_refused(result: Result, code: int, message: str) -> None:
    """One line on stderr that names what is wrong, nothing on stdout, no traceback."""
    assert result.code == code, result.err
    assert message in result.err
    assert [line for line in result.err.splitlines() if line.startswith("error: ")] == [result.err.splitlines()[-1]]
    assert "Traceback" not in result.err
    assert result.out == ""


# Results on stdout.


def test_both_stages_print_their_pinned_keys(
    run_rottrain: Run, stage1_arguments: list[object], recipe2: Path, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    first = run_rottrain(*stage1_arguments, "--json")
    second = run_rottrain(
        "stage2", "--shards", embedded, "--model", tiny_folder, "--from", tmp_path / "out", "--out", tmp_path / "two",
        "--config", recipe2, "--json",
    )  # fmt: skip
    for result, out in ((first, tmp_path / "out"), (second, tmp_path / "two")):
        assert result.code == 0
        outcome = json.loads(result.out)
        assert {"steps", "loss", "seconds", "checkpoint"} <= outcome.keys()
        assert (outcome["steps"], outcome["checkpoint"]) == (2, str(out))
        assert outcome["loss"] > 0
        assert "step 2 of 2: loss " in result.err
    assert checkpoints.load_config(tmp_path / "two").stage == "stage2"


def test_sft_prints_the_same_keys_and_a_plan(
    run_rottrain: Run, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = (
        "sft", "--mode", "no-cot", "--shards", embedded, "--model", tiny_folder, "--out", tmp_path / "out",
        "--trainable", "lora", "--batch-size", 4, "--max-steps", 1, "--json",
    )  # fmt: skip
    assert json.loads(run_rottrain(*arguments, "--dry-run").out)["steps"] == 1
    assert not (tmp_path / "out").exists()
    outcome = json.loads(run_rottrain(*arguments).out)
    assert (outcome["steps"], outcome["checkpoint"]) == (1, str(tmp_path / "out"))
    config = checkpoints.load_config(tmp_path / "out")
    assert (config.stage, config.mode) == ("sft", "no-cot")


def test_results_for_people_are_one_line(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    result = run_rottrain(*stage1_arguments)
    assert result.out.startswith(f"{tmp_path / 'out'}: 2 steps, loss ")
    assert result.out.count("\n") == 1


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


@pytest.fixture
def ask(run_rottrain: Run, stage2_checkpoint: Path) -> Run:
    """Run `rottrain generate` with a small budget."""
    return lambda *arguments: run_rottrain("generate", stage2_checkpoint, *arguments, "--budget", 2)


def test_generate_answers_the_questions_given_as_arguments(ask: Run) -> None:
    result = ask("2+2?", "3+3?", "--json")
    found = json.loads(result.out)
    assert [entry["question"] for entry in found] == ["2+2?", "3+3?"]
    assert all(entry.keys() >= {"question", "answer", "reply", "reasoning_tokens", "seconds"} for entry in found)
    assert [entry["reasoning_tokens"] for entry in found] == [2, 2]


def test_generate_reads_a_file_of_questions(ask: Run, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("2+2?\n\n\N{GREEK SMALL LETTER PI}?\n", encoding="utf-8")
    result = ask("1+1?", "--file", tmp_path / "questions.txt", "--json")
    assert [entry["question"] for entry in json.loads(result.out)] == ["1+1?", "2+2?", "\N{GREEK SMALL LETTER PI}?"]


def test_generate_reads_json_lines(ask: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "questions.jsonl", [{"question": "2+2?", "id": 1}, "", {"question": "a\u2028b"}])
    assert [entry["question"] for entry in json.loads(ask("--file", file, "--json").out)] == ["2+2?", "a\u2028b"]
    for broken in ("{ broken", {"question": " "}, {"problem": "2+2?"}, [1]):
        write_jsonl(file, [{"question": "2+2?"}, broken])
        assert_refused(ask("--file", file), 2, "questions.jsonl, line 2 is no JSON object with a text in its field")
    file.write_text("{1, 2} has how many elements?\n")
    assert json.loads(ask("--file", file, "--json").out)[0]["question"] == "{1, 2} has how many elements?"


def test_generate_prints_json_lines(ask: Run) -> None:
    result = ask("2+2?", "3+3?", "--jsonl", "--temperature", 1, "--top-p", 0.9, "--seed", 4, "--max-answer-tokens", 3)
    entries = [json.loads(line) for line in result.out.splitlines()]
    assert [entry["question"] for entry in entries] == ["2+2?", "3+3?"]
    assert all(entry["answer_tokens"] <= 3 and entry["reply"].startswith("#### ") for entry in entries)
    assert all(entry["timings"].keys() == {"prefill_s", "latents_s", "answer_s"} for entry in entries)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--budget", "some"), "a budget is a number of latents, or auto; got 'some'"),
        (("--budget", -1), "the budget is at least 0 latents, got -1"),
        (("--temperature", -1), "a temperature is a number from 0 on"),
        (("--top-p", 0), "top-p is a share of more than 0"),
    ],
)
def test_generation_that_can_not_be_is_refused(
    run_rottrain: Run, stage2_checkpoint: Path, option: tuple[object, ...], message: str
) -> None:
    assert_refused(run_rottrain("generate", stage2_checkpoint, "2+2?", *option), 2, message)


def test_generate_reads_stdin_where_nothing_else_is_given(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("2+2?\n3+3?\n"))
    assert [entry["question"] for entry in json.loads(ask("--json").out)] == ["2+2?", "3+3?"]


def test_generate_prints_an_answer_for_each_question(ask: Run) -> None:
    assert ask("2+2?", "3+3?").out.count("\n") >= 2


def test_options_change_what_the_file_says(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    options = {
        "--max-steps": ("max_steps", 1),
        "--epochs": ("epochs", 3.0),
        "--batch-size": ("batch_size", 3),
        "--accumulate": ("accumulate", 2),
        "--group-by-length": ("group_by_length", True),
        "--lr": ("lr", 1e-3),
        "--scheduler": ("scheduler", "cosine"),
        "--warmup-steps": ("warmup_steps", 1),
        "--rollout": ("rollout", "student"),
        "--precision": ("precision", "float32"),
        "--align-weight": ("align_weight", 3.0),
        "--answer-weight": ("answer_weight", 0.5),
        "--seed": ("seed", 7),
    }
    given = [part for option, (_, value) in options.items() for part in (option, value) if part is not True]
    assert run_rottrain(*stage1_arguments, *given, "--limit", 9, "--log-steps", 1, "--save-steps", 1).code == 0
    run = checkpoints.load_config(tmp_path / "out").run
    assert {name: run["recipe"][name] for name, _ in options.values()} == dict(options.values())
    assert (run["limit"], run["recipe"]["head"]["hidden"]) == (9, 16)


@pytest.mark.parametrize(
    ("name", "config"),
    [("stage1", Stage1Config), ("stage2", Stage2Config), ("sft", functools.partial(SftConfig, mode="cot"))],
)
def test_every_option_of_a_stage_is_a_key_of_its_recipe(name: str, config: Any) -> None:
    command: Any = COMMANDS[name]
    apart = {
        "shards",
        "out",
        "model",
        "config",
        "resume",
        "limit",
        "json_",
        "start",
        "help",
        "recipe",
        "report_to",
        "workers",
        "cache_hidden",
        "dry_run",
    }
    recipe = {parameter.name for parameter in command.params} - apart
    assert recipe <= vars(config()).keys()


# Exit codes.


def test_an_unknown_key_in_a_recipe_exits_2(
    run_rottrain: Run, stage1_arguments: list[object], recipe1: Path, tmp_path: Path
) -> None:
    recipe1.write_text("learning_rate: 1\n")
    assert_refused(run_rottrain(*stage1_arguments), 2, "unknown keys learning_rate for Stage1Config")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", 0), "lr is more than 0, got 0"),
        (("--limit", 0), "--limit counts rows to train on and is at least 1, got 0"),
        (("--model", "gpt"), "unknown model 'gpt': known are tiny, qwen3-vl"),
        (("--config", "absent.yaml"), "the config absent.yaml can't be read"),
    ],
)
def test_arguments_that_can_not_be_right_exit_2(
    run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, *arguments), 2, message)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_occupied_folder_exits_2(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert_refused(run_rottrain(*stage1_arguments), 2, "choose an empty or new folder for --out")


def test_shards_of_another_model_exit_1(
    run_rottrain: Run, stage1_arguments: list[object], toy_embeddings: Path
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, "--shards", toy_embeddings), 1, "have D=4 (made by stand-in)")


def test_a_folder_that_holds_no_shards_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], short_strips: Path, tmp_path: Path
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, "--shards", tmp_path), 1, "holds no manifest.json")
    assert_refused(run_rottrain(*stage1_arguments, "--shards", short_strips), 1, "holds strips, not embeddings")


def test_a_truncated_shard_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], embedded: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(embedded, tmp_path / "shards"))
    file = sorted(shards.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:-200])
    assert_refused(run_rottrain(*stage1_arguments, "--shards", shards), 1, f"{file.name} has ")


def test_a_missing_stage_1_exits_1(run_rottrain: Run, embedded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("--shards", embedded, "--model", tiny_folder, "--from", tmp_path / "absent", "--out", tmp_path / "out")
    assert_refused(run_rottrain("stage2", *arguments), 1, "no finished checkpoint in")


def test_a_second_run_resumes_and_a_state_that_is_not_there_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path
) -> None:
    arguments = [*stage1_arguments, "--precision", "float32", "--json"]
    result = run_rottrain(*arguments, "--resume", tmp_path / "checkpoint-7")
    assert_refused(result, 1, "checkpoint-7 is no complete training state")
    first, again = (run_rottrain(*arguments) for _ in range(2))
    assert (first.code, again.code) == (0, 0)
    before, after = json.loads(first.out), json.loads(again.out)
    assert before | {"seconds": 0, "ran": None} == after | {"seconds": 0}
    assert (before["ran"]["device"], before["ran"]["precision"]) == ("cpu", "float32")
    assert before["ran"]["step_seconds"] > 0
    assert before["ran"]["peak_memory_gib"] > 0
    assert "step" not in again.err


@pytest.mark.parametrize("command", ["generate", "eval"])
def test_a_folder_that_is_no_checkpoint_exits_1(run_rottrain: Run, tmp_path: Path, command: str) -> None:
    rest = ("toy", "--corpus", "toy") if command == "eval" else ("2+2?",)
    assert_refused(run_rottrain(command, tmp_path, *rest), 1, "no finished checkpoint in")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--budget", -1), 2, "the budget is at least 0 latents, got -1"),
        (("--seeds", 0), 2, "--seeds counts runs and is at least 1"),
        (("--budget", "8,many"), 2, "a budget is a number of latents, or auto; got 'many'"),
        (("--log", "log.csv"), 2, "--log names a .parquet file, got log.csv"),
        (("--suite", "math", "--data", "absent"), 1, "absent is no folder"),
        (("--batch-size", 0), 2, "the batch size is at least 1, got 0"),
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


def test_questions_that_are_not_there_or_not_text_are_refused(
    ask: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert_refused(ask(), 2, "there is no question: give it as an argument, in --file, or on stdin")
    assert_refused(ask("--file", tmp_path / "absent.txt"), 1, "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"2+2?\xff")
    assert_refused(ask("--file", tmp_path / "binary.txt"), 2, "binary.txt is not UTF-8")


@pytest.mark.parametrize(
    "arguments",
    [("stage1",), ("nonsense",), ("eval",), ("stage1", "--fnot"), ("stage1", "--rollout", "jacobian")],
)
def test_usage_errors_exit_2(run_rottrain: Run, arguments: tuple[str, ...]) -> None:
    result = run_rottrain(*arguments)
    assert result.code == 2
    assert "Error" in result.err


def test_a_terminated_run_exits_130_with_a_state_to_resume_from(stage1_arguments: list[object], tmp_path: Path) -> None:
    arguments = [*stage1_arguments, "--max-steps", 6, "--lr", 1e-3, "--log-steps", 1]
    command = [sys.executable, "-m", held.__name__, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert any(line.startswith(f"step {held.STEP - 1} of 6: loss ") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith(f"error: stopped at step {held.STEP} of 6")
    assert "Traceback" not in err
    [state] = complete_states(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RUN, state.name}


# Help.


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


def test_the_commands_of_this_release_are_there() -> None:
    assert {"stage1", "stage2", "generate", "eval", "demo"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str, run_rottrain: Run) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
    result = run_rottrain(name, "--help")
    assert result.code == 0
    assert all(parameter.opts[0] in result.out for parameter in command.params if parameter.param_type_name == "option")


def test_without_arguments_the_help_is_shown(run_rottrain: Run) -> None:
    result = run_rottrain()
    assert (result.code, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["stage1", "--help"]])
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from rottrain.cli import main\n"
        f"sys.argv = {['rottrain', *arguments]!r}\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr.split() == []


def test_reading_commands_change_nothing(
    run_rottrain: Run, ask: Run, stage2_checkpoint: Path, short_rows: Path
) -> None:
    before = contents(stage2_checkpoint)
    ask("2+2?")
    run_rottrain("eval", stage2_checkpoint, short_rows, "--corpus", "generic", "--limit", 1, "--budget", 1)
    assert contents(stage2_checkpoint) == before


# Real corpora.


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "corpus", "rows", "batch"), [("gsm8k_train.jsonl", "gsm8k", 64, 2), ("math500.jsonl", "math", 16, 2)]
)
def test_rows_of_a_real_corpus_go_through_the_whole_line(
    run_rottrain: Run, rot_data: Path, tiny_folder: Path, tmp_path: Path, file: str, corpus: str, rows: int, batch: int
) -> None:
    source = Source(location=str(rot_data / file), corpus=corpus, limit=rows)
    rendered = pipeline.render(source, StripStyle(), tmp_path / "strips")
    embedded = pipeline.embed(
        tmp_path / "strips", load_encoder(find_model(str(tiny_folder)), device="cpu"), tmp_path / "shards"
    )
    assert (rendered.rows_in, rendered.rows_out, embedded.rows_out) == (rows, rows, rows)
    shared = (
        "--shards",
        tmp_path / "shards",
        "--model",
        tiny_folder,
        "--max-steps",
        2,
        "--batch-size",
        batch,
        "--json",
    )
    first = run_rottrain("stage1", *shared, "--rollout", "teacher", "--out", tmp_path / "one")
    second = run_rottrain("stage2", *shared, "--from", tmp_path / "one", "--out", tmp_path / "two")
    assert [json.loads(result.out)["steps"] for result in (first, second)] == [2, 2]
    evaluated = run_rottrain(
        "eval", tmp_path / "two", rot_data / file, "--corpus", corpus, "--limit", 2, "--budget", 4, "--json"
    )
    assert json.loads(evaluated.out)[0]["n"] == 2
