"""The whole line on a few rows: every step is there, a fault ends it with what was said, the report is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.smoke import summary
from rotdata.shards import Manifest
from rottrain import smoke
from rottrain.cli.compare import check_words
from rottrain.model import checkpoints
from rottrain.smoke import Smoke, Step, as_report, run_smoke
from tests.helpers import Result

STEPS = ("doctor", "render", "embed", "verify", "stage1", "stage2", "generate")


@pytest.mark.slow
def test_the_line_works_on_a_random_model_and_says_how(
    run_rottrain: Callable[..., Result], tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = ("smoke", "--model", tiny_folder, "--rows", 4, "--steps", 2, "--out", tmp_path / "kept", "--json")
    result = run_rottrain(*arguments)
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    assert found["ok"]
    steps = {step["name"]: step for step in found["steps"]}
    assert tuple(steps) == STEPS
    assert str(tmp_path) + "/kept" not in result.out
    assert steps["render"]["result"]["rows_out"] == 4
    for name in ("stage1", "stage2"):
        ran = steps[name]["result"]["ran"]
        assert ran["step_seconds"] > 0
        assert (ran["device"], ran["precision"]) == ("cpu", "float32")
        assert any(line.startswith("step 2 of 2: loss ") for line in steps[name]["said"])
    assert steps["generate"]["result"][0]["reasoning_tokens"] == 8
    kept = tmp_path / "kept"
    assert found["fingerprints"]["embedded"] == Manifest.load(kept / "embedded").fingerprint
    assert found["fingerprints"]["stage2"] == checkpoints.weights_sha256(kept / "stage2")
    told = summary(found)  # what `python -m bench.gpu smoke` writes down of it
    assert (told["ok"], sorted(told["ran"]), "said" in told) == (True, ["stage1", "stage2"], False)
    report = as_report(Smoke(**found | {"steps": [Step(**step) for step in found["steps"]]}))
    assert report.startswith("### rottrain smoke: ")
    assert "float32 on cpu, peak " in report


def test_the_line_with_picture_feedback_is_of_commands_that_take_their_options(tmp_path: Path) -> None:
    found = {
        name: [str(word) for word in words]
        for name, words in smoke._commands("tiny", tmp_path, rows=4, steps=2, trainable="lora", feedback="picture")
    }
    assert tuple(found) == STEPS
    for words in found.values():
        check_words(words)
    assert "--cells" in found["render"]
    assert "latent" in found["embed"]
    assert all("picture" in found[name] for name in ("stage1", "stage2", "generate"))


def test_the_first_fault_ends_the_line_with_what_was_said(
    run_rottrain: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def commands(model: str, out: Path, **_: Any) -> Iterator[tuple[str, tuple[object, ...]]]:
        yield "doctor", ("rotdata", "fonts")
        yield "render", ("rotdata", "render", out / "nothing", "--out", out / "strips")
        yield "embed", ("rotdata", "embed", out / "strips", "--out", out / "embedded")

    monkeypatch.setattr(smoke, "_commands", commands)
    monkeypatch.setattr(smoke, "_found", lambda step: f"exit code {step.code}")
    found = run_smoke("tiny", rows=1, steps=1, trainable="lora", keep=tmp_path / "kept")
    assert [(step.name, step.code) for step in found.steps] == [("doctor", 0), ("render", 1)]
    assert not found.ok
    [said] = found.steps[-1].said
    assert said.startswith("error: ")
    assert "$OUT/nothing" in said
    assert (found.steps[-1].result, found.fingerprints) == (None, {})
    monkeypatch.setattr(smoke, "run_smoke", lambda *_, **__: found)
    monkeypatch.setattr(smoke, "as_report", lambda _: "the report")
    result = run_rottrain("smoke", "--model", "tiny")
    assert (result.code, result.out) == (1, "the report\n")


def test_a_report_of_a_fault_shows_the_last_command_and_its_words() -> None:
    doctor = [{"name": "torch", "status": "ok", "found": "2.13", "remedy": ""}]
    steps = [
        Step(name="doctor", command="rotdata doctor", code=0, seconds=1.0, result=doctor, said=["checked"]),
        Step(name="embed", command="rotdata embed $OUT/strips", code=1, seconds=2.0, result=None, said=["error: no"]),
    ]
    report = as_report(Smoke(model="m", ok=False, seconds=3.0, steps=steps, fingerprints={"strips": "abc"}))
    assert report.splitlines()[0] == "### rottrain smoke: m fails at embed"
    assert "| embed | 2.0 | exit code 1 |" in report
    assert "- torch: 2.13" in report
    assert "- strips: `abc`" in report
    assert report.endswith("    $ rotdata embed $OUT/strips\n    error: no")
    assert "checked" not in report


def test_what_is_made_is_gone_unless_it_is_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def commands(model: str, out: Path, **_: Any) -> Iterator[tuple[str, tuple[object, ...]]]:
        places.append(out)
        (out / "file").touch()
        yield "doctor", ("rotdata", "nonsense")

    monkeypatch.setattr(smoke, "_commands", commands)
    assert not run_smoke("tiny", rows=1, steps=1, trainable="lora").ok
    assert not places[0].exists()
