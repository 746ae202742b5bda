"""The numbers of a folder, counted again by hand."""

from __future__ import annotations

import builtins
import json
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rotdata import shards, stats
from rotdata.corpora import Source
from rotdata.corpora.tokens import token_counter
from rotdata.errors import MissingExtra, ShardError, UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.stats import Distribution, measure, plot
from tests.helpers import Result, write_jsonl

BYTES = token_counter(None)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strip shards of 40 rows of many lengths, one of narrow letters, one of them truncated, one rejected."""
    folder = tmp_path_factory.mktemp("stats")
    rows: list[Any] = [{"question": "q", "cot": "3+4=7. " * length, "answer": "7"} for length in range(1, 39)]
    rows += [{"question": "q", "cot": "i" * 400, "answer": "7"}]
    rows += [{"question": "q", "cot": "m" * 900, "answer": "7"}, "broken"]
    source = Source(location=str(write_jsonl(folder / "rows.jsonl", rows)), corpus="generic")
    options: dict[str, Any] = {"rows_per_shard": 7, "max_latents": 150, "too_long": "truncate"}
    pipeline.render(source, StripStyle(), folder / "strips", **options)
    return folder / "strips"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_a_distribution_is_exact(values: list[int]) -> None:
    found = Distribution.of(Counter(values))
    ordered = sorted(values)
    assert found.mean == round(statistics.fmean(values), 3)
    assert (found.min, found.median, found.max) == (ordered[0], statistics.median_low(values), ordered[-1])
    for share, value in ((0.25, found.p25), (0.9, found.p90), (0.99, found.p99)):
        assert sum(each <= value for each in values) >= share * len(values)
        assert sum(each < value for each in values) < share * len(values)


def test_counts_are_those_of_the_rows(varied: Path) -> None:
    found, rows = measure(varied, BYTES), rows_of(varied)
    assert (found.rows, found.rows_rejected, found.rows_truncated) == (40, 1, 1)
    assert found.latents.mean == round(statistics.fmean(row["num_latents"] for row in rows), 3)
    assert found.characters.max == max(len(row["cot"]) for row in rows)
    assert found.latents_histogram == dict(sorted(Counter(row["num_latents"] for row in rows).items()))
    tokens = [-(-len(row["cot"].encode()) // 4) for row in rows]
    assert found.text_tokens.mean == round(statistics.fmean(tokens), 3)
    assert found.rows_compressed == 1 / 40  # the row of narrow letters; not the truncated one


def test_a_budget_holds_the_rows_and_characters_that_stand_within_it(varied: Path) -> None:
    rows = rows_of(varied)
    total = sum(len(row["cot"]) for row in rows)
    for each in measure(varied, BYTES, (1, 10, 33, 149, 1000)).budgets:
        held = sum(row["spans"][min(each.budget, row["num_latents"])] for row in rows)
        assert each.rows == round(sum(row["num_latents"] <= each.budget for row in rows) / 40, 4)
        assert each.characters == round(held / total, 4)
    assert each.rows == 1.0
    assert each.characters < 1.0  # the truncated row's end stands in no latent


def test_compression_by_rendering_and_by_a_budget_are_two_things(varied: Path) -> None:
    found, rows = measure(varied, BYTES, (10,)), rows_of(varied)
    drawn = sum(-(-len(row["cot"][: row["spans"][-1]].encode()) // 4) for row in rows)
    assert found.rendering_compression == round(drawn / sum(row["num_latents"] for row in rows), 4)
    assert found.budgets[0].compression == round(found.text_tokens.mean / 10, 4)


def test_what_truncation_leaves_out_is_no_compression_by_rendering(varied: Path) -> None:
    found, rows = measure(varied, BYTES), rows_of(varied)
    latents = sum(row["num_latents"] for row in rows)
    assert found.characters_per_latent == round(sum(row["spans"][-1] for row in rows) / latents, 4)
    assert found.characters_per_latent < found.characters.mean / found.latents.mean
    assert found.rendering_compression < found.text_tokens.mean / found.latents.mean


def test_embeddings_have_the_numbers_of_their_strips(toy_strips: Path, toy_embeddings: Path) -> None:
    one, other = (measure(folder, BYTES).as_json() for folder in (toy_strips, toy_embeddings))
    assert one | {"kind": ""} == other | {"kind": ""}


def test_a_folder_of_rejects_alone_has_numbers_too(tmp_path: Path) -> None:
    pipeline.render(Source(location="toy", limit=3), StripStyle(), tmp_path, max_latents=1)
    found = measure(tmp_path, BYTES)
    assert (found.rows, found.rows_rejected, found.latents.max, found.rendering_compression) == (0, 3, 0, 0.0)
    plot(found, tmp_path.parent / "empty.png")


def test_an_unfinished_folder_is_refused(tmp_path: Path, toy_strips: Path) -> None:
    manifest = shards.Manifest.load(toy_strips)
    del manifest.shards[1]
    manifest.save(tmp_path)
    with pytest.raises(ShardError, match="has 2 of 3 shards: run the command that makes it again"):
        measure(tmp_path, BYTES)


@pytest.mark.parametrize("budgets", [(), (0,), (16, -1)])
def test_budgets_that_hold_nothing_are_refused(toy_strips: Path, budgets: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="budgets are numbers of latents, at least 1"):
        measure(toy_strips, BYTES, budgets)


# Tokens.


def test_without_a_tokenizer_tokens_are_an_estimate_and_called_so(toy_strips: Path) -> None:
    assert BYTES.count(["", "abc", "abcde", "é" * 4]) == [0, 1, 2, 2]
    found = measure(toy_strips, BYTES)
    assert found.tokens_estimated
    assert found.tokenizer == "an estimate: UTF-8 bytes / 4"


def test_a_tokenizer_counts_without_special_tokens(tiny_folder: Path) -> None:
    for given_as in (tiny_folder, tiny_folder / "tokenizer.json"):
        counter = token_counter(str(given_as))
        assert counter.count(["3+4=7", "é"]) == [5, 2]  # tiny's tokens are bytes
        assert not counter.estimated


@pytest.mark.parametrize("name", ["nowhere/at-all", "notes.json"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UsageError, match="is no tokenizer that can be loaded"):
        token_counter(name)


# Plots and the command line.


def test_plots_are_pictures(varied: Path, tmp_path: Path) -> None:
    plot(measure(varied, BYTES), tmp_path / "stats.png")
    with Image.open(tmp_path / "stats.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    plot(measure(varied, BYTES), tmp_path / "stats.svg")
    assert "<svg" in (tmp_path / "stats.svg").read_text()
    with pytest.raises(UsageError, match=r"--plot names a \.png, \.svg or \.pdf file"):
        plot(measure(varied, BYTES), tmp_path / "stats.txt")


def test_without_the_extra_the_remedy_is_named(varied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return whole(name, *arguments, **options)

    found = measure(varied, BYTES)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'render-of-thought\[report\]'"):
        stats.plot(found, tmp_path / "stats.png")


def test_the_command_prints_json_or_a_table(run_rotdata: Callable[..., Result], varied: Path, tmp_path: Path) -> None:
    found = json.loads(run_rotdata("stats", varied, "--budgets", "8,32", "--json").out)
    assert {"rows", "latents", "text_tokens", "tokens_estimated", "rendering_compression", "budgets"} <= found.keys()
    assert [each["budget"] for each in found["budgets"]] == [8, 32]
    shown = run_rotdata("stats", varied, "--plot", tmp_path / "stats.svg")
    assert shown.code == 0
    for line in ("latents (K)", "compression from rendering: ", "an estimate: UTF-8 bytes / 4", "characters held"):
        assert line in shown.out
    assert (tmp_path / "stats.svg").exists()
    assert run_rotdata("stats", varied, "--budgets", "8,many").code == 2
