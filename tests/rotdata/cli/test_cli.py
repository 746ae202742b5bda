"""The command line: JSON whose keys are pinned, exit codes, help for everything, errors without tracebacks."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer.main

from rotdata.cli import app
from rotdata.encoders import default_precision
from rotdata.shards import MANIFEST, Manifest, verify
from tests.helpers import REPOSITORY, Result, contents, write_jsonl

Run = Callable[..., Result]

GSM8K = {"question": "How many?", "answer": "3+4 = <<3+4=7>>7\n#### 7"}
TOY = ("render", "toy", "--corpus", "toy", "--limit", 10, "--rows-per-shard", 4)
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "PIL")


@pytest.fixture
def strips(toy_strips: Path, tmp_path: Path) -> Path:
    """A copy of the toy strips that a test may damage."""
    return Path(shutil.copytree(toy_strips, tmp_path / "strips"))


def assert_refused(result: Result, code: int, message: str) -> None:
    """One line on stderr that names what is wrong, nothing on stdout, no traceback."""
    assert result.code == code, result.err
    assert message in result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    assert result.out == ""


# JSON on stdout.


def test_render_prints_its_pinned_keys(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--out", tmp_path / "strips", "--json")
    summary = json.loads(result.out)
    assert result.code == 0
    assert {"rows_in", "rows_out", "rows_rejected", "latents", "shards", "seconds"} <= summary.keys()
    assert (summary["rows_in"], summary["rows_out"], summary["rows_rejected"], summary["shards"]) == (10, 10, 0, 3)


def test_embed_prints_its_pinned_keys(run_rotdata: Run, toy_strips: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    result = run_rotdata("embed", toy_strips, "--model", tiny_folder, "--device", "cpu", "--out", out, "--json")
    summary = json.loads(result.out)
    assert result.code == 0
    assert {"rows_in", "rows_out", "rows_rejected", "latents", "shards", "seconds", "bytes"} <= summary.keys()
    assert (summary["rows_in"], summary["rows_out"], summary["shards"]) == (10, 10, 3)
    assert summary["bytes"] == sum(file.stat().st_size for file in out.glob("*.parquet"))
    assert Manifest.load(out).encoder["dtype"] == default_precision("cpu")


def test_verify_prints_its_pinned_keys(run_rotdata: Run, toy_embeddings: Path) -> None:
    result = run_rotdata("verify", toy_embeddings, "--json")
    assert (result.code, json.loads(result.out)) == (0, {"shards": 3, "rows": 10, "mismatches": []})


def test_fonts_prints_names_counts_and_hashes(run_rotdata: Run) -> None:
    faces = json.loads(run_rotdata("fonts", "--json").out)
    assert [face["name"] for face in faces] == [
        "DejaVu Math TeX Gyre",
        "DejaVu Sans",
        "DejaVu Sans Condensed",
        "DejaVu Sans Mono",
    ]
    assert all(face["characters"] > 2000 and len(face["sha256"]) == 64 for face in faces)


def test_results_for_people_are_on_stdout_too(run_rotdata: Run, tmp_path: Path) -> None:
    out = tmp_path / "strips"
    assert run_rotdata(*TOY, "--out", out).out.startswith(f"{out}: 10 of 10 rows, ")
    assert run_rotdata("verify", out).out == "3 shards, 10 rows, 0 mismatches\n"
    assert len(run_rotdata("fonts").out.splitlines()) == 4


def test_characters_without_a_glyph_are_told_on_stderr(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": "\N{CRAB} = 1", "answer": "1"}])
    result = run_rotdata("render", file, "--corpus", "generic", "--out", tmp_path / "out", "--json")
    assert "1 characters in no font: \N{CRAB} U+1F980 (1)" in result.err
    assert json.loads(result.out)["missing"] == {"\N{CRAB}": 1}


def test_the_same_command_again_prints_the_same_counts(run_rotdata: Run, tmp_path: Path) -> None:
    first, second = (json.loads(run_rotdata(*TOY, "--out", tmp_path / "out", "--json").out) for _ in range(2))
    assert (first["shards_made"], second["shards_made"]) == (3, 0)
    assert first | {"seconds": 0, "shards_made": 0} == second | {"seconds": 0}


def test_fields_split_and_seed_reach_the_source(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"q": "How many?", "r": "3+4", "a": 7}])
    fields = ("--question-field", "q", "--cot-field", "r", "--answer-field", "a", "--id-field", "i")
    assert (
        run_rotdata("render", file, "--corpus", "generic", "--split", "test", *fields, "--out", tmp_path / "out").code
        == 0
    )
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.split, manifest.source["fields"], manifest.total("rows")) == ("test", ["q", "r", "a", "i"], 1)
    run_rotdata(*TOY, "--seed", 5, "--out", tmp_path / "toy")
    assert Manifest.load(tmp_path / "toy").source["seed"] == 5


def test_every_option_that_decides_bytes_reaches_the_settings(
    run_rotdata: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    run_rotdata(*TOY, "--max-latents", 60, "--too-long", "truncate", "--out", tmp_path / "strips")
    options = ("--store", "float32", "--patches-per-call", 100, "--dtype", "bfloat16", "--device", "cpu")
    run_rotdata("embed", tmp_path / "strips", "--model", tiny_folder, *options, "--out", tmp_path / "embedded")
    manifest = Manifest.load(tmp_path / "embedded")
    assert manifest.settings == {
        "max_latents": 60,
        "too_long": "truncate",
        "patches_per_call": 100,
        "store": "float32",
    }
    assert manifest.encoder["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--font", "dejavu mono", "--font-size", 16), {"font": "DejaVu Sans Mono", "font_size_px": 16}),
        (("--inverted",), {"foreground": 255, "background": 0}),
        (("--foreground", 10, "--background", 200), {"foreground": 10, "background": 200}),
        (("--kerning", "pairs", "--letter-spacing", 1), {"kerning": "pairs", "letter_spacing_px": 1}),
        (("--cells", 3), {"cells": 3, "padding_px": 0, "font": "DejaVu Sans Mono", "font_size_px": 17}),
        (
            ("--cells", 4, "--font", "dejavu", "--font-size", 11),
            {"cells": 4, "font": "DejaVu Sans", "font_size_px": 11},
        ),
        (("--cells", 2, "--padding", 32), {"cells": 2, "padding_px": 32}),
        (("--begin-mark", "<think>", "--end-mark", "</think>"), {"begin_mark": "<think>", "end_mark": "</think>"}),
        (("--layout", "square", "--square", 256), {"layout": "square", "square_px": 256}),
        (("--line-break", " | ", "--on-missing", "box"), {"line_break": " | ", "on_missing": "box"}),
        (("--for", "tiny"), {"height_px": 32}),
        (("--height", 28, "--padding", 8), {"height_px": 28, "padding_px": 8}),
        ((), {"height_px": 32, "padding_px": 4, "font": "DejaVu Sans"}),
    ],
)
def test_every_option_of_style_reaches_the_manifest(
    run_rotdata: Run, tmp_path: Path, options: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    assert run_rotdata(*TOY, "--out", tmp_path / "strips", *options).code == 0
    style = Manifest.load(tmp_path / "strips").style["style"]
    assert {name: style[name] for name in expected} == expected


def test_every_option_of_the_corpus_reaches_the_source(run_rotdata: Run, tmp_path: Path) -> None:
    record = {"problem": "p", "solution": "$\\pi$ [asy]a[/asy] <<1+1=2>> \\boxed{2}"}
    file = write_jsonl(tmp_path / "rows.jsonl", [record])
    options = ("--calc", "strip", "--latex", "unicode", "--asymptote", "drop")
    out = tmp_path / "out"
    assert run_rotdata("render", file, "--out", out, *options).code == 0
    manifest = Manifest.load(out)
    assert manifest.corpus == "math"
    assert {name: manifest.source[name] for name in ("calc", "latex", "asymptote")} == {
        "calc": "strip",
        "latex": "unicode",
        "asymptote": "drop",
    }
    [row] = pq.read_table(next(out.glob("*.parquet"))).to_pylist()
    assert row["cot"] == "π   2"


def test_a_height_that_the_model_does_not_need_is_refused(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--for", "tiny", "--height", 28, "--out", tmp_path / "out")
    assert_refused(result, 2, "--for tiny makes strips 32 px high, --height says 28")


def test_what_a_square_does_not_hold_is_too_long(run_rotdata: Run, tmp_path: Path) -> None:
    result = run_rotdata(*TOY, "--layout", "square", "--square", 128, "--out", tmp_path / "out", "--json")
    summary = json.loads(result.out)
    assert (result.code, summary["rows_rejected"]) == (3, 10)
    assert Manifest.load(tmp_path / "out").settings["max_latents"] == 16
    assert run_rotdata(*TOY, "--layout", "square", "--square", 256, "--out", tmp_path / "larger").code == 0


def test_a_dry_run_counts_and_writes_nothing(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "rows.jsonl", [GSM8K, GSM8K, "broken", {"question": "q", "answer": "\N{CRAB} #### 1"}]
    )
    out = tmp_path / "out"
    result = run_rotdata("render", file, "--out", out, "--rows-per-shard", 3, "--dry-run", "--json")
    assert json.loads(result.out) == {
        "corpus": "gsm8k",
        "split": "train",
        "rows_in": 4,
        "shards": 2,
        "duplicates": 1,
        "duplicate_ids": 0,
        "missing": {"\N{CRAB}": 1},
        "substituted": {},
    }
    assert not out.exists()
    shown = run_rotdata("render", file, "--out", out, "--dry-run")
    assert shown.out == f"{out} would hold 1 shards of 4 rows of gsm8k-train\n"
    assert "1 rows repeat an earlier one; they are kept" in shown.err


def test_several_processes_may_draw(run_rotdata: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        assert run_rotdata(*TOY, "--num-proc", number, "--out", tmp_path / str(number)).code == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert_refused(run_rotdata(*TOY, "--num-proc", 0, "--out", tmp_path / "0"), 2, "--num-proc counts processes")


def test_fonts_tells_what_each_lacks_of_a_corpus(run_rotdata: Run, tmp_path: Path) -> None:
    cot = "\N{HEBREW LETTER ALEF}\N{CRAB}\N{CRAB}1"
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": cot, "answer": "1"}])
    faces = {face["name"]: face for face in json.loads(run_rotdata("fonts", file, "--json").out)}
    assert faces["DejaVu Sans"]["missing"] == {"\N{CRAB}": 2}
    assert faces["DejaVu Sans"]["covered"] == 0.5
    assert faces["DejaVu Math TeX Gyre"]["missing"] == {"\N{HEBREW LETTER ALEF}": 1, "\N{CRAB}": 2}
    assert "lacks \N{CRAB} U+1F980 (2)" in run_rotdata("fonts", file).out


# Exit codes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--font", "Comic Sans"), "shipped are DejaVu Math TeX Gyre"),
        (("--corpus", "gsm9k"), "unknown corpus 'gsm9k': known are auto, gsm8k"),
        (("--limit", 0), "--limit counts rows to read and is at least 1, got 0"),
        (("--height", 16), "use a smaller --font-size or a greater --height"),
        (("--rows-per-shard", 0), "at least 1"),
        (("--split", "dev"), "has the splits train, validation, test"),
    ],
)
def test_arguments_that_can_not_be_right_exit_2(
    run_rotdata: Run, tmp_path: Path, arguments: tuple[Any, ...], message: str
) -> None:
    assert_refused(run_rotdata(*TOY, "--out", tmp_path / "out", *arguments), 2, message)
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_exits_2(run_rotdata: Run, toy_strips: Path, tmp_path: Path) -> None:
    result = run_rotdata("embed", toy_strips, "--model", "gpt", "--out", tmp_path / "out")
    assert_refused(result, 2, "unknown model 'gpt': known are tiny, qwen3-vl")


@pytest.mark.parametrize(
    "arguments",
    [("render",), ("nonsense",), (*TOY, "--out", "x", "--fnot", "y"), (*TOY, "--out", "x", "--limit", "many")],
)
def test_usage_errors_exit_2(run_rotdata: Run, arguments: tuple[Any, ...]) -> None:
    result = run_rotdata(*arguments)
    assert result.code == 2
    assert "Error" in result.err


def test_an_occupied_folder_exits_2(run_rotdata: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert_refused(run_rotdata(*TOY, "--out", tmp_path), 2, "choose an empty or new folder for --out")
    run_rotdata(*TOY, "--out", tmp_path / "out")
    other = (*TOY, "--padding", 8, "--out", tmp_path / "out")
    assert_refused(run_rotdata(*other), 2, "holds another run")
    assert run_rotdata(*other, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "no file or folder nowhere.jsonl"),
        ("someone/absent", "the Hub does not answer for dataset someone/absent"),
    ],
)
def test_a_source_that_can_not_be_read_exits_1(run_rotdata: Run, tmp_path: Path, source: str, message: str) -> None:
    assert_refused(run_rotdata("render", source, "--corpus", "gsm8k", "--out", tmp_path / "out"), 1, message)


def test_a_missing_field_exits_1_and_names_the_corpus_that_fits(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K])
    result = run_rotdata("render", file, "--corpus", "math", "--out", tmp_path / "out")
    assert_refused(result, 1, "no field 'problem', 'solution'; found question, answer; it reads as --corpus gsm8k")


@pytest.mark.parametrize(("allowed", "code"), [(None, 3), (0.2, 3), (0.25, 0), (1, 0)])
def test_too_many_rejects_exit_3_with_the_json_printed(
    run_rotdata: Run, tmp_path: Path, allowed: float | None, code: int
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K, "{ broken", GSM8K, GSM8K])
    options = () if allowed is None else ("--max-rejects", allowed)
    result = run_rotdata("render", file, "--corpus", "gsm8k", "--out", tmp_path / "out", "--json", *options)
    assert result.code == code
    summary = json.loads(result.out)
    assert (summary["rows_in"], summary["rows_out"], summary["rows_rejected"]) == (4, 3, 1)
    assert f"1 rows rejected (25.0%): reasons in {tmp_path / 'out' / 'rejects.jsonl'}" in result.err


def test_rejects_count_again_when_a_finished_run_is_repeated(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K, "{ broken"])
    assert [run_rotdata("render", file, "--corpus", "gsm8k", "--out", tmp_path / "out").code for _ in range(2)] == [
        3,
        3,
    ]


def test_a_mismatch_exits_4_with_the_json_printed(run_rotdata: Run, strips: Path) -> None:
    file = sorted(strips.glob("*.parquet"))[1]
    file.unlink()
    result = run_rotdata("verify", strips, "--json")
    assert (result.code, json.loads(result.out)) == (
        4,
        {"shards": 3, "rows": 10, "mismatches": [{"file": file.name, "problem": "missing"}]},
    )
    assert f"{file.name}: missing" in run_rotdata("verify", strips).out


def test_a_truncated_shard_exits_1_when_it_is_read(
    run_rotdata: Run, strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = sorted(strips.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:500])
    result = run_rotdata("embed", strips, "--model", tiny_folder, "--out", tmp_path / "out")
    assert result.code == 1
    assert f"{file.name} can't be read" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", ["verify", "embed"])
def test_a_folder_without_manifest_exits_1(run_rotdata: Run, tmp_path: Path, tiny_folder: Path, command: str) -> None:
    options = ("--model", tiny_folder, "--out", tmp_path / "out") if command == "embed" else ()
    assert_refused(run_rotdata(command, tmp_path, *options), 1, "holds no manifest.json")


def test_a_damaged_manifest_exits_4_and_a_missing_one_1(run_rotdata: Run, strips: Path) -> None:
    (strips / MANIFEST).write_text((strips / MANIFEST).read_text().replace("toy", "boy", 1))
    result = run_rotdata("verify", strips, "--json")
    assert result.code == 4
    found = json.loads(result.out)
    assert found["shards"] == 0
    assert "does not match its own checksum" in found["mismatches"][0]["problem"]
    (strips / MANIFEST).unlink()
    assert_refused(run_rotdata("verify", strips), 1, "holds no manifest.json")


def test_strips_of_another_height_exit_1_with_the_remedy(run_rotdata: Run, tiny_folder: Path, tmp_path: Path) -> None:
    run_rotdata(*TOY, "--height", 28, "--out", tmp_path / "strips")
    result = run_rotdata("embed", tmp_path / "strips", "--model", tiny_folder, "--out", tmp_path / "out")
    assert_refused(result, 1, "are 28 px high, tiny-random needs 32: render them with --height 32")


def test_an_output_that_is_a_file_exits_1(run_rotdata: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(run_rotdata(*TOY, "--out", tmp_path / "file"), 1, "File exists")


def test_the_whole_line_runs_from_a_corpus_file_to_verified_embeddings(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K] * 5)
    assert run_rotdata("render", file, "--corpus", "gsm8k", "--font", "DejaVu", "--out", tmp_path / "strips").code == 0
    assert run_rotdata("embed", tmp_path / "strips", "--model", "tiny", "--out", tmp_path / "embedded").code == 0
    assert run_rotdata("verify", tmp_path / "embedded").code == 0
    assert verify(tmp_path / "embedded")[0].encoder["model"] == "tiny"


# Help.


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


def test_the_commands_of_this_release_are_there() -> None:
    assert {"render", "embed", "verify", "fonts"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str, run_rotdata: Run) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
    result = run_rotdata(name, "--help")
    assert result.code == 0
    assert all(parameter.opts[0] in result.out for parameter in command.params if parameter.param_type_name == "option")


def test_without_arguments_the_help_is_shown(run_rotdata: Run) -> None:
    result = run_rotdata()
    assert (result.code, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


@pytest.mark.parametrize("package", ["rotdata", "rottrain"])
def test_help_imports_no_heavy_library(package: str) -> None:
    if importlib.util.find_spec(f"{package}.cli") is None:
        pytest.skip(f"{package} has no command line yet")
    program = (
        "import sys\n"
        f"from {package}.cli import main\n"
        f"sys.argv = [{package!r}, '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr.split() == []


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "rotdata", "fonts", "--json"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(json.loads(result.stdout)) == 4
    assert result.stderr == ""


def test_a_closed_pipe_is_no_traceback(toy_strips: Path) -> None:
    command = [sys.executable, "-m", "rotdata", "verify", str(toy_strips)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "Exception" not in errors


def test_reading_commands_change_nothing(run_rotdata: Run, toy_strips: Path) -> None:
    before = contents(toy_strips)
    run_rotdata("verify", toy_strips)
    assert contents(toy_strips) == before


def test_sigterm_before_any_work_is_an_interruption() -> None:
    code = "import os, signal, typer; from rotdata.console import run_app; app = typer.Typer()\n"
    code += "@app.command()\ndef wait() -> None: os.kill(os.getpid(), signal.SIGTERM)\nrun_app(app)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
