"""Latents read back as text: by the base model, to which they are a picture, and by the glyph probe, one by one.

The base model reads as it would read a strip: latents between the tokens that open and close a picture, then the
request to transcribe it. It decodes freely, never after a prefix of the truth: a reader that is shown the true
beginning computes the rest by itself. The glyph probe sees one latent at a time and can compute nothing.

Shapes: B rows, K latents of a row, D embedding width, T positions, S character slots, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rotdata.errors import UsageError
from rottrain.generation.decoding import decode, greedy, positions_of
from rottrain.generation.generate import MAX_QUESTION_TOKENS
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import GlyphProbe
from rottrain.training.tiny import READ_PROMPT

_SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")
_TOKENS_A_LATENT = 8
"""More than a latent shows: characters of the narrowest style, as bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of what was read."""

    text: str
    confidence: float
    """Of its least certain part, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of a row's latents, in order: a token or a few a piece, or a latent a piece."""

    pieces: list[Piece]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)


def transcribe(
    backbone: Backbone, latents: Sequence[Tensor], *, prompt: str = READ_PROMPT, batch_size: int = 16
) -> list[Reading]:
    """What the base model, without an adapter, reads in each row's latents [K, D], K at least 1.

    A piece is a token, or the tokens of one character; its confidence is the probability of the token that was chosen.
    """
    readings: list[Reading] = []
    with backbone.base():
        for start in range(0, len(latents), batch_size):
            readings += _transcribe_batch(backbone, latents[start : start + batch_size], prompt)
    return readings


def spell(probe: GlyphProbe, scaled_KD: Tensor) -> Reading:
    """What the glyph probe reads in each latent of a row, as the head scales them: a piece a latent."""
    with torch.inference_mode():
        sure_KS, class_KS = probe(scaled_KD).softmax(dim=-1).max(dim=-1)
    return Reading(
        [
            Piece(probe.alphabet.text(classes), min(sure))
            for classes, sure in zip(class_KS.tolist(), sure_KS.tolist(), strict=True)
        ]
    )


def plain(text: str) -> str:
    """Text with one space for any white space: a strip shows a line break as a space."""
    return " ".join(text.split())


def edits(read: str, reference: str) -> int:
    """Characters to insert, delete or replace to get from one text to the other, white space aside."""
    return Levenshtein.distance(plain(read), plain(reference))


def error_rate(read: str, reference: str) -> float:
    """Edits a character of the reference: 0 if it was read exactly, above 1 if more was read than there is."""
    return edits(read, reference) / max(1, len(plain(reference)))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a piece, held against a reference."""

    text: str
    confidence: float
    wrong: bool
    """Whether the reference has something else here, or nothing."""
    missing: str
    """What the reference has before it and the reading lacks."""


def held_against(reading: Reading, reference: str) -> list[Stretch]:
    """A reading in stretches that are right or wrong, by the fewest edits; what is missing at the end comes last."""
    read, wanted = (text.translate(_SPACES) for text in (reading.text, reference))
    wrong, missing = set[int](), dict[int, str]()
    for edit in Levenshtein.opcodes(read, wanted):
        if edit.tag == "insert":
            missing[edit.src_start] = reference[edit.dest_start : edit.dest_end]
        elif edit.tag != "equal":
            wrong.update(range(edit.src_start, edit.src_end))
    wrong -= {place for place in wrong if not read[: place + 1].strip() or not read[place:].strip()}  # margins
    stretches: list[Stretch] = []
    place = 0
    for piece in reading.pieces:
        begin = place
        for place in range(begin, begin + len(piece.text)):
            if place > begin and (place in wrong) == (place - 1 in wrong) and place not in missing:
                stretches[-1] = replace(stretches[-1], text=stretches[-1].text + read[place])
            else:
                stretches.append(Stretch(read[place], piece.confidence, place in wrong, missing.get(place, "")))
        place = begin + len(piece.text)
    if len(read) in missing:
        stretches.append(Stretch("", 1.0, wrong=False, missing=missing[len(read)]))
    return stretches


def read_rightly(read: str, reference: str) -> list[bool]:
    """For each character of `plain(reference)` whether it was read, by the fewest edits."""
    read, wanted = plain(read), plain(reference)
    right = [False] * len(wanted)
    for edit in Levenshtein.opcodes(read, wanted):
        if edit.tag == "equal":
            right[edit.dest_start : edit.dest_end] = [True] * (edit.dest_end - edit.dest_start)
    return right


@torch.inference_mode()
def _transcribe_batch(backbone: Backbone, latents: Sequence[Tensor], prompt: str) -> list[Reading]:
    around = backbone.picture_prompt_ids(prompt)
    if (length := sum(map(len, around))) > MAX_QUESTION_TOKENS:
        raise UsageError(f"the prompt that asks to read is of {length} tokens, at most {MAX_QUESTION_TOKENS} are read")
    before, after = (backbone.embed(torch.tensor(ids, device=backbone.device)) for ids in around)
    rows = [torch.cat([before, given_KD.to(before), after]) for given_KD in latents]
    inputs_BTD = pad_sequence(rows, batch_first=True, padding_side="left")
    width = inputs_BTD.shape[1]
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=backbone.device)
    mask = torch.arange(width, device=backbone.device) >= width - lengths_B1
    most = [_TOKENS_A_LATENT * len(given_KD) for given_KD in latents]
    cache = backbone.new_cache()
    positions = positions_of(mask, width)
    said = decode(backbone, inputs_BTD, mask, positions, cache, choose=greedy, max_tokens=max(most))
    kept = [row.ids[:count] for row, count in zip(said, most, strict=True)]  # the same alone and among longer rows
    return [
        Reading(_pieces(backbone, reply, _confidences(backbone, row_TD, reply)))
        for row_TD, reply in zip(rows, kept, strict=True)
    ]


def _confidences(backbone: Backbone, prompt_TD: Tensor, reply: list[int]) -> list[float]:
    """Probabilities of the tokens that a prompt was continued with."""
    if not reply:
        return []
    said = torch.tensor(reply, device=backbone.device)
    hidden_TD = backbone.hidden(torch.cat([prompt_TD, backbone.embed(said[:-1])])[None])[0, -len(reply) :]
    probabilities = backbone.logits(hidden_TD).float().softmax(dim=-1)
    sure: list[float] = probabilities.gather(1, said[:, None])[:, 0].tolist()
    return sure


def _pieces(backbone: Backbone, ids: list[int], confidences: list[float]) -> list[Piece]:
    """Tokens as text; those that only together spell a character make one piece."""
    pieces: list[Piece] = []
    done, since = "", 0
    for count in range(1, len(ids) + 1):
        text = backbone.decode(ids[:count])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and count < len(ids):
            continue
        pieces.append(Piece(text[len(done) :], min(confidences[since:count])))
        done, since = text, count
    return pieces
