"""What a plan says is what a run then takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from rotdata import plan as planning
from rotdata.corpora import Source
from rotdata.corpora.tokens import token_counter
from rotdata.encoders import load_encoder
from rotdata.encoders.models import ModelFolder, find_model
from rotdata.errors import SourceError, UnknownModel
from rotdata.plan import CorpusPlan, histogram_lines, plan
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from tests.helpers import Result, contents, storing, write_jsonl

STYLE = StripStyle()
TOY = Source(location="toy", limit=150)


@pytest.fixture
def weightless(tiny_folder: Path, tmp_path: Path) -> ModelFolder:
    """A model's folder without weights, as a Hub model whose configuration alone was fetched."""
    folder = tmp_path / "weightless"
    folder.mkdir()
    shutil.copy(tiny_folder / "config.json", folder)
    return find_model(str(folder))


def test_a_plan_counts_what_a_run_makes(tiny_folder: Path, tmp_path: Path) -> None:
    model = find_model(str(tiny_folder))
    found = plan(TOY, STYLE, model, tmp_path, rows_per_shard=40, device="cpu")
    drawn = pipeline.render(TOY, STYLE, tmp_path / "strips", rows_per_shard=40)
    made = pipeline.embed(
        tmp_path / "strips", load_encoder(model, dtype="float32", device="cpu"), tmp_path / "embedded"
    )
    assert (found.rows, found.rejects, found.latents) == (drawn.rows_out, 0, drawn.latents)
    assert [choice.shards for choice in found.choices] == [4] * 9
    halves, wholes = found.choices[:2]
    assert (halves.store, wholes.store) == ("float16", "float32")
    assert halves.gigabytes * 1e9 == pytest.approx(made.bytes, rel=0.35, abs=1e6)
    assert halves.measured
    assert found.embed_s is not None
    assert found.warnings == []


def test_pooled_latents_are_those_that_embedding_would_store(tiny_folder: Path, tmp_path: Path) -> None:
    model = find_model(str(tiny_folder))
    found = plan(TOY, STYLE, model, tmp_path, device="cpu")
    pipeline.render(TOY, STYLE, tmp_path / "strips")
    encoder = load_encoder(model, dtype="float32", device="cpu")
    for pool in (2, 4):
        made = pipeline.embed(
            tmp_path / "strips",
            encoder,
            tmp_path / str(pool),
            settings=storing(store="int8", pool=pool),
        )
        [choice] = [each for each in found.choices if (each.store, each.pool) == ("int8", pool)]
        assert choice.latents == made.latents


def test_a_plan_leaves_nothing_behind(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.tempfile, "tempdir", str(tmp_path))
    plan(TOY, STYLE, find_model(str(tiny_folder)), tmp_path / "out", device="cpu")
    assert contents(tmp_path) == {}


def test_rows_that_would_be_rejected_are_counted_so(weightless: ModelFolder, tmp_path: Path) -> None:
    rows = [{"question": "q", "cot": "m" * count, "answer": "1"} for count in (5, 500, 6)] + ["broken"]
    source = Source(location=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    found = plan(source, STYLE, weightless, tmp_path, max_latents=20)
    assert (found.rows, found.rejects, found.latents_per_row.max) == (2, 2, 4)


def test_without_weights_time_is_not_guessed_and_bytes_are_raw(weightless: ModelFolder, tmp_path: Path) -> None:
    found = plan(TOY, STYLE, weightless, tmp_path)
    assert (found.embed_s, found.device) == (None, None)
    assert [choice.gigabytes for choice in found.choices] == [
        round(choice.latents * found.width * size / 1e9, 3)
        for choice, size in zip(found.choices, (2, 4, 1) * 3, strict=True)
    ]
    assert not found.choices[0].measured
    assert found.warnings == [
        "how long embedding takes was not measured: the weights of weightless are not on this machine"
    ]


def test_text_tokens_a_latent_need_a_tokenizer(weightless: ModelFolder, tmp_path: Path, tiny_folder: Path) -> None:
    assert plan(TOY, STYLE, weightless, tmp_path).tokens_per_latent is None
    found = plan(TOY, STYLE, weightless, tmp_path, counter=token_counter(str(tiny_folder)))
    assert found.tokens_per_latent is not None
    assert found.tokens_per_latent > 1


def test_a_full_disk_and_a_hundred_and_forty_gigabytes_are_warned_of(
    weightless: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e3))
    assert "0.0 GB free: lower --max-latents" in plan(TOY, STYLE, weightless, tmp_path).warnings[0]
    monkeypatch.setattr(planning, "LARGE_GB", 0)
    assert "GB of embeddings are more than 0 GB" in plan(TOY, STYLE, weightless, tmp_path).warnings[1]


def test_a_hub_dataset_is_sampled_and_the_rest_follows(
    weightless: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"question": "q", "answer": f"{number}+1\n#### 1"} for number in range(5000)]
    split = SimpleNamespace(num_examples=5000)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(records))
    monkeypatch.setattr(
        datasets,
        "load_dataset_builder",
        lambda *_, **__: SimpleNamespace(info=SimpleNamespace(splits={"train": split})),
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_: SimpleNamespace(sha="commit"))
    found = plan(Source(location="openai/gsm8k"), STYLE, weightless, tmp_path)
    assert (found.rows, found.rows_measured) == (5000, 2000)
    assert found.latents == pytest.approx(5000 * found.latents_per_row.mean, abs=3)
    assert "only the first 2000 rows were read" in found.warnings[-1]
    assert plan(Source(location="openai/gsm8k", limit=100), STYLE, weightless, tmp_path).rows == 100


def test_a_hub_that_says_nothing_is_an_error(weightless: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the Hub says nothing of dataset a/b"):
        plan(Source(location="a/b", corpus="gsm8k", revision="main"), STYLE, weightless, tmp_path)


def test_a_model_without_a_width_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"patch_size": 16, "spatial_merge_size": 2}}))
    with pytest.raises(UnknownModel, match="names no width of embeddings"):
        plan(TOY, STYLE, find_model(str(tmp_path)), tmp_path)


def test_a_histogram_shows_every_row_once() -> None:
    lines = histogram_lines({1: 3, 5: 10, 47: 1})
    assert sum(int(line.split()[-1]) for line in lines) == 14
    assert max(lines, key=len).count("█") == 50
    assert histogram_lines({}) == []


def test_the_command_prints_json_or_text(run_rotdata: Callable[..., Result], tiny_folder: Path, tmp_path: Path) -> None:
    options = ("toy", "--limit", 20, "--model", tiny_folder, "--device", "cpu", "--out", tmp_path)
    found = json.loads(run_rotdata("plan", *options, "--json").out)
    assert found.keys() == {field.name for field in dataclasses.fields(CorpusPlan)}
    shown = run_rotdata("plan", *options)
    assert shown.code == 0
    for line in ("toy-train: 20 rows and 0 rejects", "embeddings as float16: ", "(by the probe)", "free disk: "):
        assert line in shown.out
