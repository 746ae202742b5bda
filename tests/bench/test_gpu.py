"""Every part of bench.gpu, at a tiny size on the CPU: it finds its figures, and what breaks off leaves what it had."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import embed, generate, learn, smoke, train
from bench.gpu.graphs import Stepper
from bench.gpu.job import Job
from rotdata.encoders.models import find_model
from rottrain.generation import rollout
from rottrain.generation.decoding import decode, greedy
from rottrain.model.backbone import Backbone
from tests.helpers import REPOSITORY, Result
from tests.rottrain.samples import as_batch, random_examples, random_head


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[], dict[str, dict[str, Any]]]:
    """Lines that were written, by figure."""

    def read() -> dict[str, dict[str, Any]]:
        found = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
        return {line.get("figure", line.get("ended", "")): line for line in found}

    return read


def job(part: str, folder: Path, **asked: Any) -> Job:
    return Job.begin(part, out=folder / "lines", size="tiny", device="cpu", commit="here", **asked)


def skipped(lines: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, line in lines.items() if "skipped" in line]


def test_embed_measures_the_tower_the_baselines_and_the_line(
    tmp_path: Path, lines: Callable[[], dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROT_DATA", raising=False)
    embed.run(job("embed", tmp_path))
    found = lines()
    assert skipped(found) == [f"tower, patches on the device, {name}" for name in ("varlen", "flash-attn")]
    assert found["one picture a call, stock processor and tower"]["difference_in_norm"] < 0.02
    for context in ("strip", "latent"):
        line = found[f"line, --context {context}"]
        assert (line["rows"], line["rejected"]) == (6, 0)
        assert line["385k_rows"]["hours"] > 0
    assert found["stock tower, packed patches on the device"]["share_of_matrix_product"] > 0


def test_train_measures_every_rollout_and_the_loop(
    tmp_path: Path, lines: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    train.run(job("train", tmp_path))
    found = lines()
    assert not skipped(found)
    rollouts = ("teacher", "jacobi:1", "student", "one sample and one latent at a time")
    assert {f"tiny, stage {stage}, {rollout}" for stage in (1, 2) for rollout in rollouts} <= found.keys()
    for stage in (1, 2):
        line = found[f"tiny, stage {stage}, teacher"]
        assert line["tflop"] >= 0
        assert line["learns"] > 0


def test_generate_spends_what_it_is_asked_to(tmp_path: Path, lines: Callable[[], dict[str, dict[str, Any]]]) -> None:
    generate.run(job("generate", tmp_path))
    found = lines()
    assert not skipped(found)
    assert found["words, batch 2"]["tokens"] == 4 + 2
    for feedback in ("latent", "picture"):
        line = found[f"{feedback} feedback, batch 2"]
        assert (line["latents"], line["tokens"]) == (3, 2)
    assert found["CUDA graph, batch 2"]["difference_in_norm"] < 0.02


def test_learn_trains_and_asks_every_arm(
    tmp_path: Path,
    lines: Callable[[], dict[str, dict[str, Any]]],
    run_rotdata: Callable[..., Result],
    run_rottrain: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(_: Job, program: str, *words: object) -> Any:
        result = (run_rotdata if program == "rotdata" else run_rottrain)(*words, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    begun = job("learn", tmp_path)
    monkeypatch.setattr("rottrain.model.glyph_probe._STEPS", 10)
    monkeypatch.setattr(learn, "command", here)  # the same commands, without a process for each
    learn.run(begun)
    found = lines()
    assert not skipped(found)
    assert found["data"]["rows"] == 24
    for arm in ("latents", "cot", "no-cot"):
        assert found[arm]["n"] == 2
        assert 0 <= found[arm]["accuracy"] <= 1
    assert found["latents"]["stage2"]["steps"] == 1


def test_smoke_tells_of_tests_that_were_skipped(tmp_path: Path) -> None:
    found = smoke.tests(job("smoke", tmp_path, seconds=300))
    assert (found["passed"], found["failed"]) == ([], {})
    assert len(found["skipped"]) == 1
    assert "there is no GPU that CUDA reaches" in found["skipped"][0]


def test_a_figure_that_fails_or_comes_too_late_is_skipped_with_the_reason(
    tmp_path: Path, lines: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    late = job("train", tmp_path, seconds=1e-9)
    begun = job("train", tmp_path)
    assert not begun.measure("broken", lambda: {"found": 1 / 0})
    assert not late.measure("late", lambda: {"found": 1})
    assert begun.measure("fine", lambda: {"found": 1})
    assert lines()["broken"]["skipped"].startswith("ZeroDivisionError: division by zero (test_gpu.py:")
    assert lines()["late"]["skipped"] == "0 s are left, 0 are needed"
    assert lines()["fine"]["found"] == 1


def bench_gpu(*arguments: object, script: Path = REPOSITORY / "bench" / "gpu") -> subprocess.CompletedProcess[str]:
    """As on a bare machine: the folder itself is run."""
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_the_command_runs_parts_apart_and_notes_how_each_ended(tmp_path: Path) -> None:
    out = tmp_path / "new" / "lines"
    done = bench_gpu("nonsense", "learn", "--out", out, "--size", "tiny", "--device", "cpu", "--base", tmp_path)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.stdout.splitlines() == out.read_text().splitlines()
    assert done.returncode == 1
    assert written[0]["skipped"].startswith("there is no such part, only smoke, embed")
    assert (written[1]["figure"], written[1]["torch"]) == ("machine", torch.__version__)
    assert written[2]["figure"] == "data"
    assert "rotdata embed ended with 2: error: " in written[2]["skipped"]
    assert written[3] | {"seconds": 0} == {"part": "learn", "ended": "well", "seconds": 0}


def test_a_part_that_crashes_or_hangs_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import __main__ as command

    monkeypatch.setattr(command, "PARTS", {"smoke": 5.0})
    monkeypatch.setattr(command, "_GRACE_S", 0.0)
    out, script = tmp_path / "lines", tmp_path / "crash.py"
    monkeypatch.setattr(command, "__file__", str(script))
    script.write_text(f"open({str(out)!r}, 'a').write('{{\"figure\": \"kept\"}}\\n'); import sys; sys.exit('boom')")
    assert command.main(["smoke", "--out", str(out)]) == 1
    monkeypatch.setattr(command, "PARTS", {"smoke": 0.5})
    script.write_text("import time; time.sleep(100)")
    started = time.monotonic()
    assert command.main(["smoke", "--out", str(out), "--seconds", "60"]) == 1
    assert time.monotonic() - started < 60
    assert command.main(["smoke", "--out", str(out), "--seconds", "1e-9"]) == 0
    kept, crashed, hung, late = (json.loads(line) for line in out.read_text().splitlines())
    assert kept == {"figure": "kept"}
    assert (crashed["ended"], crashed["said"]) == ("with 1", ["boom"])
    assert hung["ended"] == "past its deadline"
    assert late["skipped"].startswith("no time left")


@torch.no_grad()
def test_a_stepper_thinks_and_speaks_as_the_loop_does(tiny_folder: Path) -> None:
    backbone = Backbone.load(find_model(str(tiny_folder)), dtype=torch.float32, device="cpu")
    head = random_head(backbone.width)
    backbone.model.model.language_model.set_attn_implementation("sdpa")  # as on a GPU
    batch = as_batch(backbone, random_examples(backbone))
    prompt = rollout.read_prompt(backbone, batch["prompt_ids_BP"], batch["prompt_mask_BP"])
    rows = len(prompt.hidden_BD)
    stepper = Stepper(backbone, head, rows=rows, capacity=prompt.mask_BT.shape[1] + 12, steps=6)
    thought = rollout.unroll(backbone, head, prompt, 5)
    torch.testing.assert_close(stepper.latents(prompt, 5), thought.latents_BKD)
    closing = [backbone.end_id, *backbone.mark_ids]
    stepper.feed(closing)
    inputs = torch.cat([thought.latents_BKD[:, -1:], backbone.embed(torch.tensor(closing)).expand(rows, -1, -1)], dim=1)
    mask = thought.mask_after(prompt, len(closing))
    positions = (mask.long().cumsum(dim=1) - 1)[:, -inputs.shape[1] :]
    backbone.eos_id = -1
    said = decode(backbone, inputs, mask, positions, thought.cache, choose=greedy, max_tokens=3)
    assert stepper.more_tokens(3).tolist() == [row.ids for row in said]
    expected = rollout.unroll(backbone, head, prompt, 6).latents_BKD
    torch.testing.assert_close(stepper.latents(prompt), expected)  # nothing is left of what came before
