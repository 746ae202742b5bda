"""The page of a folder of shards, as a browser shows it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rotdata import preview, shards
from rotdata.corpora import Source
from rotdata.corpora.tokens import token_counter
from rotdata.errors import UsageError
from rotdata.preview import write_preview
from rotdata.rendering import fonts
from rotdata.rendering.strips import StripStyle, renderer
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards.targets import TargetSettings
from tests.helpers import Result, StandInEncoder, write_jsonl

CHROMIUM = shutil.which("chromium")
BYTES = token_counter(None)
HOSTILE = "</p><script>document.title='owned'</script>\"'&\x00\u202e<img src=x onerror=\"document.title='owned'\">"
LONG = "m" * 3000

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strip shards of six rows, hostile and very long ones among them, and three rejects, one of a hostile id."""
    root = tmp_path_factory.mktemp("preview")
    rows: list[Any] = [
        {"id": "plain", "question": "How many clips?", "cot": "48/2 = 24 clips\r\nin May", "answer": "24"},
        {"id": HOSTILE.replace("\x00", ""), "question": HOSTILE, "cot": f"\N{CRAB}{HOSTILE} end", "answer": HOSTILE},
        {"id": "long", "question": "How long?", "cot": LONG, "answer": "3000"},
        *({"id": f"more {i}", "question": "q", "cot": "7" * i, "answer": "7"} for i in range(1, 4)),
        {"id": "empty", "question": "<b>q</b>", "cot": " ", "answer": "7"},
        {"id": f"too long {HOSTILE}", "question": "q", "cot": "m" * 9000, "answer": "7"},
        "{broken",
    ]
    source = Source(location=str(write_jsonl(root / "rows.jsonl", rows)), corpus="generic")
    pipeline.render(source, StripStyle(), root / "strips", rows_per_shard=3)
    return root / "strips"


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    path = folder.parent / "page" / "preview.html"
    assert write_preview(folder, path, BYTES)[0] == 6
    return path


def seen(page: Path, asked: str, tmp_path: Path) -> str:
    """The page's DOM after its scripts have run, as HTML."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"{page.as_uri()}#{asked}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


# What the page holds.


def test_the_page_needs_nothing_from_elsewhere(page: Path) -> None:
    found: list[tuple[str, str | None]] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(pair for pair in attrs if pair[0] in ("src", "href"))

    content = page.read_text()
    Links().feed(content)
    assert len(found) == 6
    assert all(value is not None and value.startswith("data:image/png;base64,") for _, value in found)
    assert "http:" not in content
    assert "https:" not in content
    assert "url(" not in content


def test_rows_rejects_and_their_reasons_are_there(page: Path) -> None:
    content = text_of(page.read_text())
    for fact in ("plain", "How many clips?", "Rejected: 3", "the chain of thought is empty", "malformed JSON"):
        assert fact in content
    assert "too long </p><script>document" in content
    assert "6 shown" in content
    assert "In no font: \N{CRAB} U+1F980 (1)" in content


def test_nothing_of_a_corpus_is_markup(page: Path) -> None:
    content = page.read_text()
    assert "<script>document" not in content
    assert "<img src=x" not in content
    assert "\x00" not in content
    assert "\u202e" not in content
    assert "\r" not in content
    assert "<b>q</b>" not in content


def test_characters_that_a_page_can_not_hold_keep_their_place() -> None:
    text = "a\x00\x1b\x7f\u202e\r\n\t\u200b\ue000\U0001f980e\u0301\U000f0000\U0001fbfa"
    shown = preview._visible(text)
    assert len(shown) == len(text)
    assert shown == "a\u2400\u241b\u2421\ufffd\u240d\n\t\ufffd\ue000\U0001f980e\u0301\U000f0000\U0001fbfa"
    assert preview._visible("\uffff\ufdd0\U0001fffe") == 3 * "\ufffd"


def test_the_pictures_are_the_strips(folder: Path, page: Path) -> None:
    row = pq.read_table(min(folder.glob("*.parquet"))).to_pylist()[0]
    [uri] = re.findall(r'<article class="row" id="row-0".*?src="(data:image/png[^"]*)"', page.read_text(), re.DOTALL)
    assert base64.b64decode(html.unescape(uri).partition(",")[2]) == row["image"]["bytes"]


def test_embeddings_are_shown_by_their_strips_drawn_again(folder: Path, page: Path, tmp_path: Path) -> None:
    pipeline.embed(folder, StandInEncoder(), tmp_path / "embedded")
    assert write_preview(tmp_path / "embedded", tmp_path / "embedded.html", BYTES)[0] == 6
    pictures = [re.findall(r"data:image/png[^\"]*", file.read_text()) for file in (page, tmp_path / "embedded.html")]
    assert pictures[0] == pictures[1]
    assert "stand-in" in (tmp_path / "embedded.html").read_text()


def test_embeddings_drawn_with_another_font_are_not_drawn_wrongly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.embed(folder, StandInEncoder(), tmp_path / "embedded")
    renderer.cache_clear()
    monkeypatch.setattr(fonts.FontFace, "sha256", "0" * 64)
    with pytest.raises(UsageError, match="preview the folder of strips that they were embedded from"):
        write_preview(tmp_path / "embedded", tmp_path / "page.html", BYTES)
    renderer.cache_clear()


@pytest.mark.parametrize(
    "targets", [TargetSettings(pool=2), TargetSettings(max_latents=9, longer="resample")], ids=["pooled", "resampled"]
)
def test_embeddings_whose_latents_have_no_columns_are_not_drawn_wrongly(
    folder: Path, tmp_path: Path, targets: TargetSettings
) -> None:
    pipeline.embed(folder, StandInEncoder(), tmp_path / "embedded", settings=EmbedSettings(targets=targets))
    with pytest.raises(UsageError, match="pooled, resampled or of resized strips"):
        write_preview(tmp_path / "embedded", tmp_path / "page.html", BYTES)


def test_few_rows_are_spread_over_the_folder(folder: Path, tmp_path: Path) -> None:
    assert write_preview(folder, tmp_path / "page.html", BYTES, rows=3)[0] == 3
    content = text_of((tmp_path / "page.html").read_text())
    assert "3 of 6 rows, evenly spaced" in content
    assert "plain" in content
    assert "more 3" in content
    with pytest.raises(UsageError, match="--rows counts"):
        write_preview(folder, tmp_path / "page.html", BYTES, rows=0)


def test_a_truncated_row_counts_the_tokens_of_what_it_shows(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": "7" * 400, "answer": "7"}])
    source = Source(location=str(file), corpus="generic")
    pipeline.render(source, StripStyle(), tmp_path / "strips", max_latents=10, too_long="truncate")
    [row] = [row for part in (tmp_path / "strips").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    drawn = row["spans"][-1]
    write_preview(tmp_path / "strips", tmp_path / "page.html", BYTES)
    content = text_of((tmp_path / "page.html").read_text())
    assert f"{-(-drawn // 4)} text tokens" in content
    assert f"truncated: the first {drawn} of 400 characters" in content


def test_a_folder_of_rejects_alone_has_a_page(tmp_path: Path) -> None:
    pipeline.render(Source(location="toy", limit=3), StripStyle(), tmp_path / "strips", max_latents=1)
    assert write_preview(tmp_path / "strips", tmp_path / "page.html", BYTES)[0] == 0
    assert "Rejected: 3" in (tmp_path / "page.html").read_text()


def test_an_interrupted_folder_shows_what_it_has(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "strips")
    manifest = shards.Manifest.load(copy)
    del manifest.shards[1]
    manifest.save(copy)
    write_preview(copy, tmp_path / "page.html", BYTES)
    assert "2 of 3" in (tmp_path / "page.html").read_text()


# What it does in a browser.


@needs_browser
def test_nothing_of_a_corpus_runs(page: Path, tmp_path: Path) -> None:
    assert "<title>generic-train: strips</title>" in seen(page, "", tmp_path)


@needs_browser
def test_pointing_at_a_latent_shows_its_characters(folder: Path, page: Path, tmp_path: Path) -> None:
    [row] = [row for row in pq.read_table(min(folder.glob("*.parquet"))).to_pylist() if row["id"] == "plain"]
    for k in (0, 3, row["num_latents"] - 1):
        dom = seen(page, f"row=0&latent={k + 1}", tmp_path)
        start, stop = row["spans"][k : k + 2]
        [marked] = re.findall(r"<mark>(.*?)</mark>", dom, re.DOTALL)
        assert html.unescape(marked) == row["cot"][start:stop].replace("\r", "\u240d")
        assert f"latent {k + 1} of {row['num_latents']}: characters {start} to {stop}" in dom
        assert f'class="at" style="left: {32 * k}px; top: 0px;"' in dom


@needs_browser
def test_a_latent_is_found_at_every_size_and_cells_are_shown_large(tmp_path: Path) -> None:
    pipeline.render(Source(location="toy", limit=1), StripStyle(cells=6, align_steps=True), tmp_path / "strips")
    write_preview(tmp_path / "strips", tmp_path / "page.html", BYTES)
    assert 'class="at" style="left: 128px; top: 0px;"' in seen(tmp_path / "page.html", "row=0&latent=3", tmp_path)
    assert 'class="at" style="left: 384px; top: 0px;"' in seen(
        tmp_path / "page.html", "row=0&latent=5&zoom=3", tmp_path
    )


@needs_browser
def test_characters_beyond_the_basic_plane_count_once(folder: Path, page: Path, tmp_path: Path) -> None:
    [row] = [row for row in pq.read_table(min(folder.glob("*.parquet"))).to_pylist() if "script" in row["id"]]
    dom = seen(page, "row=1&latent=2", tmp_path)
    [marked] = re.findall(r"<mark>(.*?)</mark>", dom, re.DOTALL)
    assert html.unescape(marked) == row["cot"][row["spans"][1] : row["spans"][2]]


@needs_browser
def test_a_search_hides_what_does_not_match(page: Path, tmp_path: Path) -> None:
    dom = seen(page, "q=CLIPS+may", tmp_path)
    hidden = re.findall(r'<article class="row" id="row-(\d)"[^>]*hidden', dom)
    assert hidden == ["1", "2", "3", "4", "5"]
    assert '<span id="found">1</span>' in dom
    assert 'id="none" hidden' not in seen(page, "q=nothing+of+the+kind", tmp_path)
    assert '<span id="found">0</span>' in seen(page, "q=latents", tmp_path)  # a word of the page, not of the corpus


@needs_browser
@pytest.mark.parametrize("asked", ["row=0&latent=0", "row=0&latent=99", "row=0&latent=1.5", "row=0&latent=x", "row=99"])
def test_a_link_to_no_latent_shows_none(page: Path, tmp_path: Path, asked: str) -> None:
    dom = seen(page, asked, tmp_path)
    assert "<mark>" not in dom
    assert "undefined" not in text_of(dom.partition("<script>")[0])


@needs_browser
def test_rows_can_be_ordered_by_length(page: Path, tmp_path: Path) -> None:
    lengths = re.findall(r'<article[^>]*data-k="(\d+)"', seen(page, "order=long", tmp_path))
    assert list(map(int, lengths)) == sorted(map(int, lengths), reverse=True)


@needs_browser
def test_a_latent_of_a_square_is_found_in_its_row(tmp_path: Path) -> None:
    style = StripStyle(layout="square", square_px=128)
    pipeline.render(Source(location="toy", limit=1), style, tmp_path / "strips")
    write_preview(tmp_path / "strips", tmp_path / "page.html", BYTES)
    assert 'style="left: 64px; top: 32px;"' in seen(tmp_path / "page.html", "row=0&latent=7", tmp_path)


def test_the_command_says_where_the_page_is(run_rotdata: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run_rotdata("preview", folder, "--html", page, "--rows", 2, "--json")
    assert json.loads(result.out) == {"page": str(page), "rows": 2, "bytes": page.stat().st_size}
    assert run_rotdata("preview", folder, "--html", page).out.startswith(f"{page}: 6 rows, ")
