"""A folder of shards as one self-contained page: strips with their latents, what each one shows, and the rejects."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rotdata import shards
from rotdata.corpora.tokens import TokenCounter
from rotdata.errors import UsageError
from rotdata.output import write_atomically
from rotdata.pages import render_page
from rotdata.rendering.png import decode_png, encode_png
from rotdata.rendering.strips import Renderer, renderer_as

DEFAULT_ROWS = 100
_LISTED_REJECTS = 500


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row as the page shows it."""

    id: str
    question: str
    cot: str
    answer: str
    num_latents: int
    text_tokens: int
    """Of the text that the strip shows."""
    characters: int
    characters_drawn: int
    """Fewer than all where the row was truncated."""
    png: str
    """Data URI."""
    width_px: int
    height_px: int
    spans: str
    """Offsets in code points, as JSON."""


def write_preview(folder: Path, page: Path, counter: TokenCounter, *, rows: int = DEFAULT_ROWS) -> tuple[int, int]:
    """Write a page about a folder of strips or embeddings, its rows spread evenly: rows that it shows, and its bytes.

    Raises ShardError, or UsageError for embeddings whose strips can't be drawn again here.
    """
    if rows < 1:
        raise UsageError(f"--rows counts the rows to show and is at least 1, got {rows}")
    manifest = shards.Manifest.load(folder)
    shown = list(_rows(folder, manifest, rows, counter))
    rejects = shards.read_rejects(folder)
    style = manifest.style["style"]
    listed = [{name: _visible(str(reject[name])) for name in ("id", "reason")} for reject in rejects[:_LISTED_REJECTS]]
    content = render_page(
        "rotdata",
        "preview.html.j2",
        styles=["preview.css"],
        scripts=["preview.js"],
        manifest=manifest,
        said=_in_words(style),
        shown=shown,
        total=manifest.total("rows"),
        rejects=listed,
        rejects_total=len(rejects),
        reasons=Counter(_kind(_visible(str(reject["reason"]))) for reject in rejects).most_common(),
        missing=_named(manifest.survey.get("missing", {})),
        substituted=_named(manifest.survey.get("substituted", {})),
        factor=style["height_px"],
        zoom=2 if style["cells"] else 1,
        tokenizer=counter.name,
        estimated=counter.estimated,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    encoded = content.encode()
    write_atomically(page, encoded)
    return len(shown), len(encoded)


def _rows(folder: Path, manifest: shards.Manifest, count: int, counter: TokenCounter) -> Iterator[ShownRow]:
    strips = manifest.kind == "strips"
    draw = None if strips else _same_renderer(folder, manifest)
    columns = ["id", "question", "cot", "answer", "num_latents", "spans", *(["image"] if strips else [])]
    for row in shards.sample(folder, manifest, count, columns):
        png, pixels = _picture(row, draw)
        drawn = row["spans"][-1]
        yield ShownRow(
            id=_visible(row["id"]),
            question=_visible(row["question"]),
            cot=_visible(row["cot"]),
            answer=_visible(row["answer"]),
            num_latents=row["num_latents"],
            text_tokens=counter.count([row["cot"][:drawn]])[0],
            characters=len(row["cot"]),
            characters_drawn=drawn,
            png="data:image/png;base64," + base64.b64encode(png).decode(),
            width_px=pixels.shape[1],
            height_px=pixels.shape[0],
            spans=json.dumps(row["spans"]),
        )


def _picture(row: dict[str, Any], draw: Renderer | None) -> tuple[bytes, NDArray[np.uint8]]:
    """A row's strip as PNG and as pixels: the one stored, or drawn again."""
    if draw is None:
        content: bytes = row["image"]["bytes"]
        return content, decode_png(content)
    pixels = draw.render(row["cot"][: row["spans"][-1]]).pixels
    return encode_png(pixels), pixels


def _same_renderer(folder: Path, manifest: shards.Manifest) -> Renderer:
    """The renderer that drew the strips of these embeddings. Raises UsageError if this machine draws otherwise."""
    if not manifest.latent_is_a_factor:
        raise UsageError(
            f"the latents of {folder} are pooled, resampled or of resized strips, and have no columns of their own: "
            "preview the folder of strips that they were embedded from"
        )
    draw = renderer_as(manifest.style)
    if draw is None:
        raise UsageError(
            f"the strips of {folder} were drawn with other fonts or another FreeType than those here: "
            "preview the folder of strips that they were embedded from"
        )
    return draw


def _visible(text: str) -> str:
    """Text for a page: controls and bidi overrides as pictures of themselves, one code point for one.

    HTML can't hold NUL, and an override would reverse the page around it.
    """
    return "".join(_stand_in(character) for character in text)


def _stand_in(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # the symbol for that control
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    hidden = noncharacter or unicodedata.category(character) in ("Cc", "Cf", "Cs")
    return "\N{REPLACEMENT CHARACTER}" if hidden else character


def _in_words(style: dict[str, Any]) -> str:
    """A style in a line."""
    parts = [f"{style['font']}, {style['font_size_px']} px", f"lines of {style['height_px']} px"]
    parts.append(f"padding {style['padding_px']} px")
    if style["cells"]:
        lines = f" in each of {style['lines']} lines" if style.get("lines", 1) > 1 else ""
        aligned = "".join(f", {each} aligned" for each in ("steps", "numbers") if style.get(f"align_{each}"))
        parts.append(f"{style['cells']} cells a latent{lines}{aligned}")
    if style["layout"] == "square":
        parts.append(f"squares of {style['square_px']} px")
    if style["kerning"] != "none" or style["letter_spacing_px"]:
        parts.append(f"kerning {style['kerning']}, letter spacing {style['letter_spacing_px']} px")
    if (style["foreground"], style["background"]) != (0, 255):
        parts.append(f"grey {style['foreground']} on {style['background']}")
    if style["begin_mark"] or style["end_mark"]:
        parts.append(f"marks {style['begin_mark']!r} and {style['end_mark']!r}")
    return ", ".join(parts)


def _named(characters: dict[str, int]) -> list[tuple[str, str, int]]:
    """Character, code point and count, the most frequent first."""
    most = sorted(characters.items(), key=lambda item: -item[1])
    return [(_visible(character), f"U+{ord(character):04X}", count) for character, count in most]


def _kind(reason: str) -> str:
    """A reason without what differs from row to row."""
    return re.sub(r"\d+", "…", reason.split(";", maxsplit=1)[0])
