"""The trace of one question: what it is made of, with and without a reference, and the commands that give it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rotdata.rendering.png import decode_png
from rotdata.rendering.strips import StripStyle, render
from rotdata.shards import EmbeddingShards
from rottrain.analysis.nearest import LatentIndex
from rottrain.analysis.pages import write_trace
from rottrain.analysis.read_back_methods import read_back, scaled
from rottrain.analysis.trace import Trace, as_text, data_uri, find_row, trace
from rottrain.analysis.true_latents import TrueLatents
from rottrain.generation.generate import RoT
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from tests.helpers import Result
from tests.rottrain.samples import SUMS

BUDGET = 3


@pytest.fixture(scope="module")
def shards(embedded: Path) -> EmbeddingShards:
    return EmbeddingShards(embedded)


@pytest.fixture(scope="module")
def rot(stage1_checkpoint: Path) -> RoT:
    """A random model with a random glyph probe that has learnt to stop, if one asks its config."""
    loaded = RoT.from_pretrained(stage1_checkpoint, precision="float32")
    torch.manual_seed(0)
    loaded.glyphs = GlyphProbe(192, Alphabet("+=0123456789", slots=3)).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        loaded.head.halt.bias.fill_(-5.0)
    run = loaded.config.run | {"recipe": loaded.config.run["recipe"] | {"halt_weight": 0.1}}
    loaded.config = replace(loaded.config, run=run)
    return loaded


@pytest.fixture(scope="module")
def traced(rot: RoT, shards: EmbeddingShards) -> Trace:
    return trace(rot, find_row(shards, "row 9"), LatentIndex(shards), TrueLatents(rot, shards), budget=BUDGET)


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return decode_png(base64.b64decode(content))


def test_the_answer_is_what_the_model_says_and_so_it_is_at_every_budget(traced: Trace, rot: RoT) -> None:
    [made] = rot.generate([traced.question], budget=BUDGET)
    assert traced.reply == made.reply
    assert [each.budget for each in traced.budgets] == [0, 1, 2, 3]
    assert traced.budgets[-1].reply == traced.reply
    for each in traced.budgets[1:]:
        assert each.reply == rot.generate([traced.question], budget=each.budget)[0].reply
        assert each.correct is not None


def test_every_reader_s_reading_has_its_error_rate(traced: Trace, rot: RoT, shards: EmbeddingShards) -> None:
    [made] = rot.generate([traced.question], budget=BUDGET)
    nearest = LatentIndex(shards).nearest([made.latents_KD], count=5, without=["9+10=19"])
    read = read_back(rot, [made.latents_KD], nearest)
    assert [reading.reader for reading in traced.readings] == ["base", "glyphs", "nearest"] == list(read)
    for reading in traced.readings:
        assert reading.text == read[reading.reader][0].text
        assert reading.error_rate is not None
    assert len(traced.readings[1].pieces) == len(traced.readings[2].pieces) == traced.told == BUDGET


def test_the_reference_goes_as_far_as_the_budget(traced: Trace) -> None:
    strip = render("9+10=19", StripStyle())
    assert traced.reference == "9+10=19"[: strip.spans[BUDGET]]
    assert "".join(latent.should_show or "" for latent in traced.latents) == traced.reference
    assert traced.strip is not None
    assert np.array_equal(decoded(traced.strip), strip.pixels[:, : 32 * BUDGET])
    assert traced.strip_latents == BUDGET


def test_each_latent_has_its_neighbours_and_what_the_model_says_of_it(traced: Trace) -> None:
    assert len(traced.latents) == BUDGET
    for latent in traced.latents:
        assert len(latent.nearest) == 5
        assert all(near.id != "row 9" for near in latent.nearest)
        assert [near.cosine for near in latent.nearest] == sorted((n.cosine for n in latent.nearest), reverse=True)
        assert decoded(latent.nearest[0].picture).shape == (32, 32)
        assert latent.glyphs is not None
        assert latent.to_truth is not None
    assert traced.indexed > 0
    assert 1 <= traced.settled <= BUDGET


def test_a_thought_is_read_up_to_the_latent_that_the_model_says_is_its_last(
    rot: RoT, shards: EmbeddingShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rot.head, "is_last", lambda hidden: torch.tensor([[-5.0, 5.0, 5.0]]))
    found = trace(rot, find_row(shards, "row 9"), LatentIndex(shards), TrueLatents(rot, shards), budget=BUDGET)
    assert (found.told, len(found.latents)) == (2, BUDGET)
    assert [len(reading.pieces) for reading in found.readings[1:]] == [2, 2]
    assert [latent.last and round(latent.last) for latent in found.latents] == [0, 1, 1]
    assert all(latent.glyphs is not None for latent in found.latents)


@pytest.fixture(scope="module")
def pictured(picture_checkpoint: Path, picture_shards: Path) -> Callable[..., Trace]:
    """Trace the first of the sums with picture feedback."""
    rot_of_pictures, index = RoT.from_pretrained(picture_checkpoint), LatentIndex(EmbeddingShards(picture_shards))
    row = Row("", SUMS[0]["question"], SUMS[0]["cot"], SUMS[0]["answer"])

    def traced(**options: Any) -> Trace:
        truths = TrueLatents(rot_of_pictures, EmbeddingShards(picture_shards))
        return trace(rot_of_pictures, row, index, truths, budget=6, **options)

    return traced


def test_what_was_fed_back_is_shown_as_it_was_read_and_where_it_was_unsure(
    pictured: Callable[..., Trace], picture_checkpoint: Path
) -> None:
    [made] = RoT.from_pretrained(picture_checkpoint).generate([SUMS[0]["question"]], budget=6)
    assert made.thought is not None
    between = sorted(made.thought.confidences)[1]
    found = pictured(confidence=between)
    assert (found.feedback, found.confidence) == ("picture", between)
    assert [each.glyphs and each.glyphs.text for each in found.latents] == made.thought.texts
    assert [each.unsure for each in found.latents] == [each < between for each in made.thought.confidences]
    assert sum(each.unsure for each in found.latents) == 1
    assert not any(each.unnamed for each in found.latents)
    [glyphs] = [reading for reading in found.readings if reading.reader == "glyphs"]
    assert glyphs.text == "".join(made.thought.texts[: found.told])
    [place] = [place for place, each in enumerate(found.latents) if each.unsure]
    told = f"latent {place + 1} {made.thought.texts[place]!r} ({min(made.thought.confidences):.0%})"
    assert (told in as_text(found)) == (place < found.told)
    assert not any(each.unsure for each in pictured(confidence=0).latents)
    with pytest.raises(UsageError, match="a confidence is a probability from 0 to 1, got 2"):
        pictured(confidence=2)


def test_an_unsure_reading_is_marked_on_the_page(pictured: Callable[..., Trace], tmp_path: Path) -> None:
    def page(confidence: float) -> str:
        write_trace(tmp_path / "trace.html", pictured(confidence=confidence), config)
        return (tmp_path / "trace.html").read_text()

    config = cast("Any", SimpleNamespace(stage="stage1", model="tiny"))
    sure, unsure = page(0.0), page(1.0)
    assert re.findall(r'<span class="c\d(?: wrong)? unsure" title="unsure: 0\.\d\d">', unsure)
    assert "Tinted</span></span>: with a probability below 1." in unsure
    assert 'title="unsure' not in sure
    assert "Tinted" not in sure
    assert "the picture of what it read was fed back" in sure


def test_scaled_latents_are_the_head_s(rot: RoT) -> None:
    latents = torch.randn(2, 192)
    assert_close(scaled(rot, latents), rot.head.scaled(latents))


def test_a_question_of_no_corpus_has_no_reference(rot: RoT, shards: EmbeddingShards) -> None:
    rot_bare = RoT(rot.backbone, rot.head, replace(rot.config, run={"recipe": {}}))
    found = trace(rot_bare, Row("", "7?", "", ""), LatentIndex(shards), TrueLatents(rot_bare, shards), budget=2)
    assert (found.id, found.correct, found.reference, found.reference_answer, found.strip) == (None,) * 5
    assert [reading.reader for reading in found.readings] == ["base", "nearest"]
    assert {reading.error_rate for reading in found.readings} == {None}
    for latent in found.latents:
        assert (latent.glyphs, latent.last, latent.should_show, latent.to_truth) == (None,) * 4
    assert found.true_sizes is None
    assert found.path.true == []
    assert as_text(found).splitlines()[0].endswith("7?")


def test_a_row_is_found_by_its_id(shards: EmbeddingShards) -> None:
    assert find_row(shards, "row 5") == Row("row 5", "5+6?", "5+6=11", "5")
    with pytest.raises(UsageError, match="no row 'row 99'"):
        find_row(shards, "row 99")


def test_a_data_uri_holds_the_pixels() -> None:
    pixels = render("3+4=7", StripStyle()).pixels
    assert np.array_equal(decoded(data_uri(pixels)), pixels)


# The command.


def test_the_command_writes_a_page_and_prints_json_or_a_few_lines(
    run_rottrain: Callable[..., Result], stage1_checkpoint: Path, embedded: Path, tmp_path: Path
) -> None:
    asked = ("trace", stage1_checkpoint, "--shards", embedded, "--budget", 2)
    page = tmp_path / "page.html"
    printed = run_rottrain(*asked, "--row", "row 4", "--out", page, "--json")
    assert printed.code == 0
    found = json.loads(printed.out)
    assert (found["id"], found["question"], len(found["latents"])) == ("row 4", "4+5?", 2)
    assert "4+5?" in page.read_text()
    told = run_rottrain(*asked, "--question", "1+1?")
    assert told.code == 0
    assert told.out.splitlines()[0] == "question              1+1?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "trace one thing"),
        (("--question", "a", "--row", "b"), "trace one thing"),
        (("--corpus", "--out", "page.html"), "--out is the page of one question"),
    ],
)
def test_the_command_traces_one_thing(
    run_rottrain: Callable[..., Result], embedded: Path, options: tuple[str, ...], message: str
) -> None:
    refused = run_rottrain("trace", "no checkpoint", "--shards", embedded, *options)
    assert refused.code == 2
    assert message in refused.err


def test_shards_of_other_latents_are_refused(
    run_rottrain: Callable[..., Result], stage1_checkpoint: Path, toy_embeddings: Path
) -> None:
    refused = run_rottrain("trace", stage1_checkpoint, "--shards", toy_embeddings, "--question", "1+1?")
    assert refused.code == 1
    assert "give shards of the same style, encoder and pooling" in refused.err
