"""Exported folders: their scripts and the lines of their cards answer as the checkpoint does; cards; the Hub."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, dynamic_module_utils

from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import OutputOccupied, UsageError
from rotdata.runs import pipeline
from rottrain import export
from rottrain.config import HeadConfig, LoraSettings, SftConfig, Stage1Config, Stage2Config
from rottrain.generation import generate
from rottrain.generation.generate import RoT
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.model.trained import load_text_model
from rottrain.training.stages import run_sft, run_stage1, run_stage2
from tests import families
from tests.helpers import REPOSITORY, contents
from tests.hub_server import HubServer, environment
from tests.rottrain.samples import SUMS, random_head, save_variant, wake_adapter

QUESTION = "Ann has 3 figs, finds 4."
ANSWER_TOKENS = 12


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's replies have no end."""
    for name in ("MAX_ANSWER_TOKENS", "MAX_COT_TOKENS"):
        monkeypatch.setattr(export, name, ANSWER_TOKENS)


@pytest.fixture(autouse=True)
def _scripts_are_copied_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies a script before it runs it, by default into the home folder."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the script in an exported folder on a question; what it prints."""

    def run(folder: Path, *options: object) -> str:
        monkeypatch.setattr(sys, "argv", ["use.py", QUESTION, *map(str, options)])
        capsys.readouterr()
        runpy.run_path(str(folder / "use.py"), run_name="__main__")
        return capsys.readouterr().out.rstrip("\n")

    return run


def snippet_in(file: Path) -> str:
    """The Python of a page that has transformers load an exported folder."""
    blocks = re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
    return next(block for block in blocks if "custom_generate" in block)


def answer(reply: str) -> str:
    """A reply as the script prints it."""
    return reply.removeprefix("####").removeprefix(" ").rstrip("\n")


def told(checkpoint: Path, **how: Any) -> str:
    """What the checkpoint itself answers."""
    [made] = RoT.from_pretrained(checkpoint).generate([QUESTION], max_answer_tokens=ANSWER_TOKENS, **how)
    return answer(made.reply)


def test_the_script_in_the_folder_answers_as_the_adapter_does(
    stage2_checkpoint: Path, tmp_path: Path, use: Callable[..., str]
) -> None:
    exported = export.export(stage2_checkpoint, tmp_path / "out")
    assert use(tmp_path / "out") == told(stage2_checkpoint)
    assert use(tmp_path / "out", "--budget", 2) == told(stage2_checkpoint, budget=2)
    assert (exported.weights, exported.url) == ("adapter", None)
    assert set(exported.files) >= {
        "adapter_config.json", "adapter_model.safetensors", "checkpoint/head.safetensors", "checkpoint/config.json",
        "rot.json", "use.py", "custom_generate/generate.py",
    }  # fmt: skip
    assert exported.bytes == sum(map(len, contents(tmp_path / "out").values()))
    with pytest.raises(ValueError, match="has not learnt to stop"):
        use(tmp_path / "out", "--stop", 0.5)
    with pytest.raises(ValueError, match="has no book of pictures"):
        use(tmp_path / "out", "--feedback", "picture")


def test_the_lines_of_docs_and_card_answer_as_the_adapter_does(
    stage2_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.export(stage2_checkpoint, tmp_path / "out")
    lines = snippet_in(tmp_path / "out" / "README.md")
    assert lines == snippet_in(REPOSITORY / "docs" / "training.md")
    here = lines.replace('"FOLDER"', repr(str(tmp_path / "out"))).replace('"a question"', repr(QUESTION))
    exec(compile(here, "card", "exec"), {})
    assert answer(capsys.readouterr().out) == told(stage2_checkpoint)
    with pytest.raises(ValueError, match=r"has no rot.json: give the folder, or OWNER/NAME, .* as folder="):
        exec(compile(here.replace(", folder=folder", ""), "card", "exec"), {})


def test_a_head_alone_is_exported_with_the_rows_of_its_tokens(
    stage1_checkpoint: Path, tmp_path: Path, use: Callable[..., str]
) -> None:
    export.export(stage1_checkpoint, tmp_path / "out")
    assert use(tmp_path / "out") == told(stage1_checkpoint)


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
    assert use(tmp_path / "out") == told(tmp_path / "two")


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
    assert use(tmp_path / "out") == told(checkpoint)
    tower = {name: value for name, value in load_file(tiny_folder / "model.safetensors").items() if "visual" in name}
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tower.items())
    assert not [name for name, content in contents(tmp_path / "out").items() if str(tiny_folder).encode() in content]
    assert said_by(tmp_path / "out", trust_remote_code=True) == told(checkpoint)


def said_by(folder: Path, **loading: Any) -> str:
    """What a whole model says whose own `generate` is the folder's."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, **loading)
    rot = json.loads((folder / "rot.json").read_text())
    prompt = tokenizer(rot["prefix"] + QUESTION + rot["suffix"], add_special_tokens=False, return_tensors="pt")
    said = model.generate(**prompt)
    return answer(tokenizer.decode(said[0, prompt.input_ids.shape[1] :], skip_special_tokens=True))


PICTURE_QUESTIONS = [row["question"] for row in SUMS[::5]]


@pytest.fixture(scope="module")
def pictures(picture_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that feeds back pictures. Read only."""
    out = tmp_path_factory.mktemp("pictures") / "out"
    export.export(picture_checkpoint, out)
    return out


def asked_of(folder: Path, **how: Any) -> tuple[Any, list[str]]:
    """What an exported folder made of the questions, all in one call, and its replies."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    rot = json.loads((folder / "rot.json").read_text())
    texts = [rot["prefix"] + question + rot["suffix"] for question in PICTURE_QUESTIONS]
    prompts = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True)
    made = model.generate(
        **prompts, custom_generate=str(folder), trust_remote_code=True, return_dict_in_generate=True,
        max_new_tokens=ANSWER_TOKENS, **how,
    )  # fmt: skip
    said = made.sequences[:, prompts.input_ids.shape[1] :]
    return made, [answer(tokenizer.decode(row, skip_special_tokens=True)) for row in said]


@pytest.mark.parametrize("how", [{}, {"budget": 2}, {"stop": 0.02}, {"feedback": "latent", "budget": 5}], ids=str)
def test_an_export_thinks_and_answers_as_its_checkpoint_with_pictures_does(
    picture_checkpoint: Path, pictures: Path, how: dict[str, Any]
) -> None:
    rot = RoT.from_pretrained(picture_checkpoint, precision="float32")
    expected = rot.generate(PICTURE_QUESTIONS, max_answer_tokens=ANSWER_TOKENS, **how)
    made, replies = asked_of(pictures, **how)
    assert replies == [answer(each.reply) for each in expected]
    for latents_KD, each in zip(made.latents, expected, strict=True):
        torch.testing.assert_close(latents_KD, each.latents_KD, rtol=1e-3, atol=1e-3)
    if "feedback" not in how:
        assert made.thoughts == [each.thought.text for each in expected]
        assert (made.drawn, made.unnamed) == (
            [each.thought.drawn for each in expected], [each.thought.unnamed for each in expected]
        )  # fmt: skip
    if "stop" in how:
        assert any(len(each) == 1 for each in made.latents)


@pytest.fixture
def forgetful(pictures: Path, tmp_path: Path) -> Path:
    """That export with a book of the blank page alone."""
    out = Path(shutil.copytree(pictures, tmp_path / "forgetful"))
    pages = load_file(out / "checkpoint" / "book.safetensors")
    save_file({name: value[:1].clone() for name, value in pages.items()}, out / "checkpoint" / "book.safetensors")
    return out


def test_what_the_book_lacks_is_drawn(pictures: Path, forgetful: Path) -> None:
    known, replies = asked_of(pictures)
    drawn, anew = asked_of(forgetful)
    assert (drawn.thoughts, anew) == (known.thoughts, replies)
    assert sum(drawn.drawn) > 0 == sum(drawn.unnamed)


def test_what_can_not_be_drawn_is_fed_back_as_predicted_and_said(
    pictures: Path, forgetful: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "rotdata", None)
    made, _ = asked_of(forgetful)
    plain, _ = asked_of(forgetful, feedback="latent")
    assert sum(made.drawn) == 0 < sum(made.unnamed) == sum(map(len, made.latents))
    assert set("".join(made.thoughts)) == {"\ufffd"}
    for fed_KD, predicted_KD in zip(made.latents, plain.latents, strict=True):
        torch.testing.assert_close(fed_KD, predicted_KD[: len(fed_KD)])
    assert "characters that are not in the book can't be drawn: rotdata is not installed" in caplog.text
    assert f"{sum(made.unnamed)} of {sum(made.unnamed)} latents were fed back as they were predicted" in caplog.text


def test_an_export_needs_none_of_this_package(pictures: Path, picture_checkpoint: Path, tmp_path: Path) -> None:
    [expected] = RoT.from_pretrained(picture_checkpoint, precision="float32").generate(PICTURE_QUESTIONS[:1])
    alone = "import runpy, sys; sys.modules |= {'rotdata': None, 'rottrain': None}; sys.argv = sys.argv[1:]; "
    done = subprocess.run(
        [sys.executable, "-c", f"{alone}runpy.run_path(sys.argv[0], run_name='__main__')",
         pictures / "use.py", PICTURE_QUESTIONS[0]],
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == answer(expected.reply)
    assert f"{expected.thought.text}\n({expected.reasoning_tokens} latents, 0 drawn)" in done.stderr


@pytest.mark.parametrize("mode", ["cot", "no-cot"])
def test_baselines_in_words_are_exported_too(
    embedded: Path, tiny_folder: Path, tmp_path: Path, use: Callable[..., str], mode: Any
) -> None:
    config = SftConfig.paper(mode=mode, max_steps=1, lr=1e-2, lora=LoraSettings(rank=2, dropout=0.0))
    run_sft(embedded, str(tiny_folder), tmp_path / "sft", config)
    export.export(tmp_path / "sft", tmp_path / "out")
    backbone, _ = load_text_model(tmp_path / "sft")
    answer = generate.in_words if mode == "cot" else generate.at_once
    [made] = answer(backbone, [QUESTION], max_tokens=ANSWER_TOKENS)
    expected = made.reply.removeprefix("" if mode == "cot" else "#### ").rstrip("\n")
    assert use(tmp_path / "out") == expected
    assert "checkpoint/head.safetensors" not in contents(tmp_path / "out")


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
def test_an_export_is_pushed_once_and_asked_on_the_hub(
    stage2_checkpoint: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    with HubServer() as server:

        def run(*arguments: object) -> Any:
            done = subprocess.run(
                [sys.executable, "-m", "rottrain", *map(str, arguments), "--json"],
                env=environment(server, tmp_path / "home", server.token),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        pushing = (
            "export",
            stage2_checkpoint,
            "--out",
            tmp_path / "out",
            "--base",
            "owner/name",
            "--push",
            "tester/rot",
        )
        uploaded = []
        for _ in range(2):
            assert run(*pushing)["url"] == f"{server.endpoint}/tester/rot"
            uploaded.append(server.uploaded_bytes)
        assert uploaded[0] == uploaded[1]
        pushed = server.repositories["tester/rot"].head.files
        assert {name: file.content for name, file in pushed.items() if name != ".gitattributes"} == contents(
            tmp_path / "out"
        )
        [made] = run(
            "generate", "tester/rot", QUESTION, "--model", tiny_folder, "--max-answer-tokens", ANSWER_TOKENS
        )  # fmt: skip
        assert answer(made["reply"]) == told(stage2_checkpoint)


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
        encoder={"model": family, "tower_sha256": "0" * 64, "dtype": "float32"},
        style={"style": {"font": "DejaVu", "font_size_px": 20}},
        encoding="0" * 64,
        prompt=backbone.prompt,
        head=checkpoints.shape_of(head),
        run={
            "stage": "stage2",
            "model": str(model),
            "shards": "0" * 64,
            "limit": None,
            "start": None,
            "recipe": {"lora": vars(lora), "trainable": "lora", "fit": "pad"},
        },
        result={"steps": 0, "loss": 0.0, "validation": None},
        learnt=["adapter"],
        budget=3,
    )
    checkpoints.save(tmp_path / "checkpoint", config, backbone, head=head)
    (tmp_path / "checkpoint" / "recipe.yaml").write_text("{}\n")
    export.export(tmp_path / "checkpoint", tmp_path / "out", weights=weights)
    assert use(tmp_path / "out") == told(tmp_path / "out") == told(tmp_path / "checkpoint")
