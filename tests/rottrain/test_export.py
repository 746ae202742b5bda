"""Exported folders: the script of the docs and of the card answers as the checkpoint does; cards; the Hub."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import OutputOccupied, UsageError
from rotdata.runs import pipeline
from rottrain import export
from rottrain.config import HeadConfig, LoraSettings, SftConfig, Stage1Config, Stage2Config
from rottrain.export import use_script
from rottrain.generation import generate
from rottrain.generation.generate import RoT
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.training.stages import run_sft, run_stage1, run_stage2
from tests import families
from tests.helpers import REPOSITORY, contents
from tests.hub_server import HubServer, environment
from tests.rottrain.samples import random_head, save_variant, wake_adapter

QUESTION = "Ann has 3 figs, finds 4."
ANSWER_TOKENS = 12


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's replies have no end."""
    for name in ("MAX_ANSWER_TOKENS", "MAX_COT_TOKENS"):
        monkeypatch.setattr(export, name, ANSWER_TOKENS)


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script on an exported folder and a question; what it prints."""

    def run(script: str, folder: Path) -> str:
        file = tmp_path / "use.py"
        file.write_text(script)
        monkeypatch.setattr(sys, "argv", [str(file), str(folder), QUESTION])
        capsys.readouterr()
        runpy.run_path(str(file))
        return capsys.readouterr().out.rstrip("\n")

    return run


def script_in(file: Path) -> str:
    """The first Python script of a page that loads a model."""
    blocks = re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
    return next(block for block in blocks if "AutoModelForImageTextToText" in block)


def told(checkpoint: Path) -> str:
    """What the checkpoint itself answers."""
    [made] = RoT.from_pretrained(checkpoint).generate([QUESTION], max_answer_tokens=ANSWER_TOKENS)
    return made.reply.removeprefix("####").removeprefix(" ").rstrip("\n")


def test_the_script_of_the_docs_answers_as_the_adapter_does(
    stage2_checkpoint: Path, tmp_path: Path, use: Callable[..., str]
) -> None:
    exported = export.export(stage2_checkpoint, tmp_path / "out")
    script = script_in(REPOSITORY / "docs" / "training.md")
    assert script == script_in(tmp_path / "out" / "README.md")
    assert use(script, tmp_path / "out") == told(stage2_checkpoint)
    assert (exported.weights, exported.url) == ("adapter", None)
    assert set(exported.files) >= {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "rot.json"}
    assert exported.bytes == sum(map(len, contents(tmp_path / "out").values()))


def test_the_loading_takes_no_more_than_ten_lines(stage2_checkpoint: Path) -> None:
    lines = script_in(REPOSITORY / "docs" / "training.md").split("\n\n")[2].splitlines()
    assert lines[0].startswith("folder, question")
    assert lines[-1].startswith("head = ")
    assert len(lines) <= 10


def test_a_head_alone_is_exported_with_the_rows_of_its_tokens(
    stage1_checkpoint: Path, tmp_path: Path, use: Callable[..., str]
) -> None:
    export.export(stage1_checkpoint, tmp_path / "out")
    assert use(script_in(tmp_path / "out" / "README.md"), tmp_path / "out") == told(stage1_checkpoint)


def test_rows_that_were_trained_and_a_table_that_grew_are_kept(
    tmp_path: Path, short_strips: Path, use: Callable[..., str]
) -> None:
    model = save_variant(tmp_path / "model", tied=False, vocab_size=263)
    pipeline.embed(
        short_strips, load_encoder(find_model(str(model)), dtype="float32", device="cpu"), tmp_path / "shards"
    )
    recipe: dict[str, Any] = {"rollout": "teacher", "batch_size": 4, "max_steps": 1, "lr": 3e-2}
    head = HeadConfig(hidden=16, activation="gelu")
    run_stage1(tmp_path / "shards", str(model), tmp_path / "one", Stage1Config.paper(head=head, **recipe))
    second = Stage2Config.paper(train_tokens=True, lora=LoraSettings(rank=2, dropout=0.0), **recipe)
    run_stage2(tmp_path / "shards", str(model), tmp_path / "one", tmp_path / "two", second)
    export.export(tmp_path / "two", tmp_path / "out")
    assert use(script_in(tmp_path / "out" / "README.md"), tmp_path / "out") == told(tmp_path / "two")


@pytest.mark.parametrize("weights", ["whole", None])
def test_whole_weights_need_no_base_model(
    embedded: Path, tiny_folder: Path, tmp_path: Path, use: Callable[..., str], stage2_checkpoint: Path, weights: Any
) -> None:
    checkpoint = stage2_checkpoint
    if weights is None:  # the base model's own weights have learnt
        checkpoint = tmp_path / "one"
        recipe = Stage1Config.paper(
            rollout="teacher", max_steps=1, lr=1e-2, trainable="full", head=HeadConfig(hidden=16)
        )
        run_stage1(embedded, str(tiny_folder), checkpoint, recipe)
        with pytest.raises(UsageError, match="own weights have learnt in .*: export --weights whole"):
            export.export(checkpoint, tmp_path / "out", weights="adapter")
    exported = export.export(checkpoint, tmp_path / "out", weights=weights)
    assert (exported.weights, exported.base) == ("whole", None)
    assert use(script_in(tmp_path / "out" / "README.md"), tmp_path / "out") == told(checkpoint)
    tower = {name: value for name, value in load_file(tiny_folder / "model.safetensors").items() if "visual" in name}
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tower.items())
    assert not [name for name, content in contents(tmp_path / "out").items() if str(tiny_folder).encode() in content]


@pytest.mark.parametrize("mode", ["cot", "no-cot"])
def test_baselines_in_words_are_exported_too(
    embedded: Path, tiny_folder: Path, tmp_path: Path, use: Callable[..., str], mode: Any
) -> None:
    config = SftConfig.paper(mode=mode, max_steps=1, lr=1e-2, lora=LoraSettings(rank=2, dropout=0.0))
    run_sft(embedded, str(tiny_folder), tmp_path / "sft", config)
    export.export(tmp_path / "sft", tmp_path / "out")
    backbone, _ = checkpoints.load_text_model(tmp_path / "sft")
    answer = generate.in_words if mode == "cot" else generate.at_once
    [made] = answer(backbone, [QUESTION], max_tokens=ANSWER_TOKENS)
    expected = made.reply.removeprefix("" if mode == "cot" else "#### ").rstrip("\n")
    assert use(script_in(tmp_path / "out" / "README.md"), tmp_path / "out") == expected
    assert "head.safetensors" not in contents(tmp_path / "out")


def test_a_card_says_what_it_is_of_and_escapes_what_others_wrote(stage2_checkpoint: Path, tmp_path: Path) -> None:
    export.export(stage2_checkpoint, tmp_path / "out", base="owner/name")
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.startswith('---\nbase_model: "owner/name"\nlibrary_name: peft\n')
    config = checkpoints.load_config(stage2_checkpoint)
    assert f"tower `{config.encoder['tower_sha256'][:12]}`" in page
    rot = json.loads((tmp_path / "out" / "rot.json").read_text())
    config.encoder["model"] = "a`b | c\n# d"
    config.style["style"]["font"] = "<script>`"
    hostile = export.card(config, rot)
    assert "`a'b \\| c # d`" in hostile
    assert "\n# d" not in hostile
    assert use_script(rot) in hostile


def test_the_same_export_is_found_again_and_other_files_are_left_alone(stage2_checkpoint: Path, tmp_path: Path) -> None:
    first = export.export(stage2_checkpoint, tmp_path / "out")
    before = contents(tmp_path / "out")
    assert export.export(stage2_checkpoint, tmp_path / "out") == first
    for changed in ({"base": "owner/name"}, {"weights": "whole"}):
        with pytest.raises(OutputOccupied, match="holds files already: choose an empty or new folder"):
            export.export(stage2_checkpoint, tmp_path / "out", **changed)
    assert contents(tmp_path / "out") == before


def test_an_adapter_of_a_model_that_nobody_else_has_is_not_pushed(stage2_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="others can't find the base model .*--base, or export --weights whole"):
        export.export(stage2_checkpoint, tmp_path / "out", push="tester/model")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_export_is_pushed_once(stage2_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("export", stage2_checkpoint, "--out", tmp_path / "out", "--base", "owner/name", "--push", "tester/rot")
    with HubServer() as server:
        for number in range(2):
            done = subprocess.run(
                [sys.executable, "-m", "rottrain", *map(str, arguments), "--json"],
                env=environment(server, tmp_path / "home", server.token),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["url"] == f"{server.endpoint}/tester/rot"
            if number == 0:
                uploaded = server.uploaded_bytes
        pushed = server.repositories["tester/rot"].head.files
        assert uploaded == server.uploaded_bytes
        assert {name: file.content for name, file in pushed.items() if name != ".gitattributes"} == contents(
            tmp_path / "out"
        )


@pytest.mark.parametrize("weights", ["adapter", "whole"])
@pytest.mark.parametrize("family", ["qwen3_vl_moe", "qwen3_5", "qwen2_5_vl", "llava_next"])
def test_every_family_is_exported(family: str, weights: Any, tmp_path: Path, use: Callable[..., str]) -> None:
    model = families.save(family, tmp_path / "model")
    backbone = Backbone.load(find_model(str(model)), dtype=torch.float32, device="cpu")
    lora = LoraSettings(rank=2, dropout=0.0)
    backbone.add_adapter(lora, train_tokens=False)
    wake_adapter(backbone)
    head = random_head(backbone.width)
    config = CheckpointConfig(
        stage="stage2",
        model=str(model),
        encoder={"model": family, "tower_sha256": "0" * 64},
        style={"style": {"font": "DejaVu", "font_size_px": 20}},
        encoding="0" * 64,
        prompt=backbone.prompt,
        head=checkpoints.shape_of(head),
        run={"recipe": {"lora": vars(lora), "trainable": "lora"}},
        result={"steps": 0, "loss": 0.0, "validation": None},
        learnt=["adapter"],
        budget=3,
    )
    checkpoints.save(tmp_path / "checkpoint", config, backbone, head=head)
    (tmp_path / "checkpoint" / "recipe.yaml").write_text("{}\n")
    export.export(tmp_path / "checkpoint", tmp_path / "out", weights=weights)
    assert use(script_in(tmp_path / "out" / "README.md"), tmp_path / "out") == told(tmp_path / "checkpoint")
