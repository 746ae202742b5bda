"""Latents read back: a picture to the base model, one by one to the glyph probe, and how far off the text is."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from rottrain.analysis.read_back import (
    Piece,
    Reading,
    _pieces,
    edits,
    error_rate,
    held_against,
    read_rightly,
    spell,
    transcribe,
)
from rottrain.config import LoraSettings
from rottrain.generation.generate import RoT
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from tests.rottrain.samples import full_pass, token_inputs, wake_adapter

LATENTS = [torch.randn(count, 192, generator=torch.Generator().manual_seed(count)) for count in (3, 1, 5)]


@torch.no_grad()
def naive_reading(backbone: Backbone, latents_KD: Tensor) -> tuple[list[int], list[float]]:
    """Tokens and probabilities that greedy decoding gives after the picture, a full pass for every token."""
    text = f"<|im_start|><|vision_start|>{{}}<|vision_end|>Transcribe.{backbone.prompt.suffix}"
    assert backbone.prompt.prefix == "<|im_start|>"
    around = [backbone.tokenizer(part, add_special_tokens=False).input_ids for part in text.split("{}")]
    inputs = torch.cat([token_inputs(backbone, around[0]), latents_KD, token_inputs(backbone, around[1])])
    ids: list[int] = []
    sure: list[float] = []
    while len(ids) < 8 * len(latents_KD):
        probabilities = backbone.logits(full_pass(backbone, inputs)[-1]).softmax(dim=-1)
        token = int(probabilities.argmax())
        if token == backbone.eos_id:
            break
        ids.append(token)
        sure.append(float(probabilities.max()))
        inputs = torch.cat([inputs, token_inputs(backbone, [token])])
    return ids, sure


def test_the_base_model_reads_latents_as_it_reads_a_picture(backbone: Backbone) -> None:
    [alone] = transcribe(backbone, LATENTS[1:2])
    ids, sure = naive_reading(backbone, LATENTS[1])
    assert alone.text == backbone.decode(ids)
    expected = _pieces(backbone, ids, sure)
    assert_close([piece.confidence for piece in alone.pieces], [piece.confidence for piece in expected])


def test_rows_of_any_length_are_read_together_as_alone(backbone: Backbone) -> None:
    together = transcribe(backbone, LATENTS, batch_size=2)
    for latents, reading in zip(LATENTS, together, strict=True):
        [alone] = transcribe(backbone, [latents])
        assert reading.text == alone.text


def test_an_adapter_reads_nothing(backbone: Backbone, tiny_folder: Path) -> None:
    plain = transcribe(backbone, LATENTS[:1])
    backbone.add_adapter(LoraSettings(rank=2), train_tokens=True)
    wake_adapter(backbone, scale=0.5)
    assert transcribe(backbone, LATENTS[:1]) == plain


def test_tokens_of_one_character_make_one_piece(backbone: Backbone) -> None:
    ids = backbone.text_ids("aπ😀")
    sure = [0.9 - 0.1 * place for place in range(len(ids))]
    pieces = _pieces(backbone, ids, sure)
    assert [piece.text for piece in pieces] == ["a", "π", "😀"]
    assert [piece.confidence for piece in pieces] == [sure[0], sure[2], sure[6]]
    cut = _pieces(backbone, ids[:-1], sure[:-1])
    assert "".join(piece.text for piece in cut) == backbone.decode(ids[:-1])


def test_the_glyph_probe_reads_each_latent_alone() -> None:
    probe = GlyphProbe(4, Alphabet("+7", slots=2)).eval()
    scaled = torch.randn(5, 4)
    reading = spell(probe, scaled)
    assert len(reading.pieces) == 5
    assert spell(probe, scaled[3:4]).pieces == [
        Piece(reading.pieces[3].text, pytest.approx(reading.pieces[3].confidence))
    ]
    assert all(1 / 4 <= piece.confidence <= 1 for piece in reading.pieces)


@pytest.mark.parametrize(
    ("read", "reference", "expected"),
    [("1+1=2", "1+1=2", 0), ("1+1=3", "1+1=2", 1), ("1+1=2 ", "1+1\n=2", 1), ("a\nb", "a  b", 0), ("", "abc", 3)],
)
def test_edits_are_counted_in_characters_and_white_space_is_one_space(read: str, reference: str, expected: int) -> None:
    assert edits(read, reference) == expected
    assert error_rate(read, reference) == expected / len(" ".join(reference.split()))


@pytest.mark.parametrize(
    ("read", "reference", "right"),
    [("1+2", "1+1", "110"), ("", "ab", "00"), ("xab", "ab", "11"), ("a b", "a\nb", "111"), ("a", "", "")],
)
def test_each_character_of_a_reference_was_read_or_not(read: str, reference: str, right: str) -> None:
    assert read_rightly(read, reference) == [each == "1" for each in right]


def test_an_error_rate_can_exceed_one_and_an_empty_reference_counts_as_one_character() -> None:
    assert error_rate("abcd", "x") == 4
    assert error_rate("", "") == 0
    assert Reading([Piece("a", 0.5), Piece("b", 1.0)]).text == "ab"


def test_a_trained_checkpoint_is_read_by_the_model_it_was(stage2_checkpoint: Path, backbone: Backbone) -> None:
    rot = RoT.from_pretrained(stage2_checkpoint, precision="float32")
    assert transcribe(rot.base, LATENTS) == transcribe(backbone, LATENTS)


# Held against a reference.


def marks(pieces: list[str], reference: str) -> list[tuple[str, bool, str]]:
    reading = Reading([Piece(text, 0.5) for text in pieces])
    return [(stretch.text, stretch.wrong, stretch.missing) for stretch in held_against(reading, reference)]


@pytest.mark.parametrize(
    ("pieces", "reference", "expected"),
    [
        (["1+1", "=2"], "1+1=2", [("1+1", False, ""), ("=2", False, "")]),
        (["1+1=3"], "1+1=2", [("1+1=", False, ""), ("3", True, "")]),
        (["1=2"], "1+1=2", [("1", False, ""), ("=2", False, "+1")]),
        (["1+"], "1+1", [("1+", False, ""), ("", False, "1")]),
        (["1+", "9", "1"], "1+1", [("1+", False, ""), ("9", True, ""), ("1", False, "")]),
        (["a\tb"], "a\nb", [("a b", False, "")]),
        ([" 1 "], "1", [(" 1 ", False, "")]),
        ([], "1", [("", False, "1")]),
        (["", "1", ""], "1", [("1", False, "")]),
    ],
)
def test_what_is_wrong_and_what_is_missing_stands_where_it_is(
    pieces: list[str], reference: str, expected: list[tuple[str, bool, str]]
) -> None:
    found = marks(pieces, reference)
    assert "".join(text for text, _, _ in found) == "".join(text for text, _, _ in expected)
    assert [mark for mark in found if mark[1] or mark[2]] == [mark for mark in expected if mark[1] or mark[2]]


@given(st.lists(st.text("ab \n", max_size=3), max_size=5), st.text("ab \n", max_size=8))
def test_stretches_are_the_reading_and_never_cross_pieces(pieces: list[str], reference: str) -> None:
    reading = Reading([Piece(text, place / 10) for place, text in enumerate(pieces)])
    found = held_against(reading, reference)
    assert "".join(stretch.text for stretch in found) == reading.text.replace("\n", " ")
    for place, text in enumerate(pieces):
        of_piece = [stretch for stretch in found if stretch.confidence == place / 10 and stretch.text]
        assert "".join(stretch.text for stretch in of_piece) == text.replace("\n", " ")
