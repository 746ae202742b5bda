"""How much of a thought can be read back: the scores, what they are held against, and which rows were trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rotdata.errors import UsageError
from rotdata.shards import EmbeddingShards
from rottrain.analysis import read_back_rates as measured
from rottrain.analysis.nearest import LatentIndex
from rottrain.analysis.read_back import Piece, Reading
from rottrain.analysis.read_back_rates import (
    _confirmed,
    _errors,
    _others,
    as_table,
    last_rows,
    traceability,
    trained_on,
)
from rottrain.analysis.true_latents import TrueLatents
from rottrain.generation.generate import Generation, RoT
from tests.helpers import Result


@pytest.fixture(scope="module")
def shards(embedded: Path) -> EmbeddingShards:
    return EmbeddingShards(embedded)


@pytest.fixture
def rot(stage1_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage1_checkpoint, precision="float32")


def said(*texts: str) -> list[Reading]:
    return [Reading([Piece(text, 1.0)]) for text in texts]


def test_rows_come_from_the_end_as_validation_takes_them(shards: EmbeddingShards) -> None:
    every = last_rows(shards, None)
    assert [row.id for row in every] == [f"row {n}" for n in range(10)]
    for count in (1, 3, 10, 99):
        assert last_rows(shards, count) == every[-count:]


def test_it_is_known_which_rows_were_trained_on(rot: RoT, shards: EmbeddingShards) -> None:
    own = shards.manifest.fingerprint

    def having(limit: int | None, held_out: int, learnt: object = own) -> int | None:
        run = {"shards": learnt, "limit": limit, "recipe": {"validation_rows": held_out}}
        return trained_on(replace(rot.config, run=run), shards, 4)

    assert trained_on(rot.config, shards, 4) == 4
    assert having(None, 3) == 1
    assert having(None, 5) == 0
    assert having(7, 0) == 1
    assert having(99, 0) == 4
    assert having(None, 0, "other shards") == having(None, 0, [("a", 1.0), ("b", 1.0)]) == 0
    assert having(None, 3, [(own, 0.5)]) == 1
    assert having(None, 3, [("other", 1.0), (own, 1.0)]) is None


def test_errors_are_counted_over_all_rows_together() -> None:
    found = _errors(said("12", "abcd", ""), ["12", "abXd", "9999999999"])
    assert found.value == (0 + 1 + 10) / 16
    assert 0 <= found.low < found.value < found.high <= 1
    assert _errors(said("1", "2"), ["1", "2"]).high == 0


def test_what_two_readers_both_read_is_confirmed() -> None:
    found = _confirmed(said("1+1=2", "ab"), said("1+1=3", "xb"), ["1+1=2", "ab"])
    assert found.value == (4 + 1) / 7


def test_another_row_says_something_else() -> None:
    assert _others(["a", "b", "b", "c"]) == ["b", "c", "c", "a"]


def test_perfect_thoughts_are_read_without_error_by_readers_who_can(
    rot: RoT, shards: EmbeddingShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = last_rows(shards, 4)
    truths = {row.question: truth for row, truth in zip(rows, TrueLatents(rot, shards).of(rows, 99), strict=True)}
    texts = {truth.latents_KD.sum().item(): truth.text for truth in truths.values()}
    monkeypatch.setattr(
        rot,
        "generate",
        lambda questions, **_: [
            Generation(question=q, reply="#### 1", reasoning_tokens=1, seconds=0, latents_KD=truths[q].latents_KD)
            for q in questions
        ],
    )
    monkeypatch.setattr(
        measured,
        "read_back",
        lambda _, thoughts, nearest, **__: {"base": said(*(texts[thought.sum().item()] for thought in thoughts))},
    )
    found = traceability(rot, shards, LatentIndex(shards), limit=4)
    [base] = found.scores
    assert (base.errors.value, base.exact.value, base.errors_on_true.value) == (0, 1, 0)
    assert base.errors_against_another.value > 0.2
    assert found.confirmed is None
    assert (found.rows, found.trained_on) == (4, 4)
    assert base.agrees.value == sum(row.cot.endswith("=1") for row in rows) / 4
    assert "0.0% [0.0, 0.0] of the characters wrong" in as_table(found)


def test_two_different_rows_are_needed(rot: RoT, shards: EmbeddingShards) -> None:
    with pytest.raises(UsageError, match="two different ones, got 1"):
        traceability(rot, shards, LatentIndex(shards), limit=1)


def test_shards_without_spans_tell_nothing(rot: RoT, shards: EmbeddingShards, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = SimpleNamespace(shown=None)
    monkeypatch.setattr(measured, "TrueLatents", lambda *_: SimpleNamespace(of=lambda rows, _: [bare] * len(rows)))
    with pytest.raises(UsageError, match="have no spans"):
        traceability(rot, shards, LatentIndex(shards), limit=2, budget=1)


def test_the_command_reads_rows_back(
    run_rottrain: Callable[..., Result], stage1_checkpoint: Path, embedded: Path
) -> None:
    asked = ("trace", stage1_checkpoint, "--shards", embedded, "--corpus", "--limit", 2, "--budget", 2)
    printed = run_rottrain(*asked, "--json")
    assert printed.code == 0
    found = json.loads(printed.out)
    assert (found["rows"], found["trained_on"]) == (2, 2)
    assert [score["reader"] for score in found["scores"]] == ["base", "nearest"]  # it has no glyph probe
    table = run_rottrain(*asked, "--index", embedded, "--index-rows", 4)
    assert table.code == 0
    assert "| the nearest pictures |" in table.out
    assert "2 rows, 2 of them trained on" in table.out
