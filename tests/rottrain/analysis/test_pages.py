"""The pages, as a browser shows them: nothing that a text says runs, and nothing is asked of any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError

from rotdata.corpora import Row
from rotdata.pages import environment
from rotdata.shards import EmbeddingShards
from rottrain.analysis.nearest import LatentIndex
from rottrain.analysis.pages import _telling, write_report, write_trace
from rottrain.analysis.trace import trace
from rottrain.analysis.true_latents import TrueLatents
from rottrain.generation.generate import RoT

CHROMIUM = shutil.which("chromium")
HOSTILE = "</p></script><script>document.title='owned'</script>\"'&\u202e<img src=x onerror=\"document.title='owned'\">"
RESULT: dict[str, Any] = {
    "n": 200,
    "accuracy": 0.5,
    "interval": {"low": 0.43, "high": 0.57},
    "reasoning_tokens": 32.0,
    "seconds_per_question": 0.01,
    "budget": 32,
}
RECORD: dict[str, Any] = {
    "render": {"rows_out": 10},
    "stage1": {"steps": 2},
    "stage2": {"steps": 2},
    "eval": [RESULT | {"mode": mode} for mode in ("rot", "cot", "no-cot")],
    "budgets": [RESULT | {"budget": budget, "accuracy": budget / 10} for budget in (0, 4, 8)],
    "seconds": 1.5,
}

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def rot(stage1_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage1_checkpoint, precision="float32")


@pytest.fixture(scope="module")
def hostile(rot: RoT, embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a row whose every text tries to run something."""
    row = Row(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    traced = trace(rot, row, LatentIndex(EmbeddingShards(embedded)), TrueLatents(rot), budget=4)
    page = tmp_path_factory.mktemp("pages") / "trace.html"
    write_trace(page, traced, rot.config)
    return page


@pytest.fixture(scope="module")
def seen(hostile: Path, browse: Callable[..., str]) -> str:
    """What the browser makes of that page, with a latent and a budget asked for."""
    return browse(hostile, "latent=3&budget=2&theme=dark")


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Open a page in a browser; the document after its scripts have run."""
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]

    def run(page: Path, fragment: str = "") -> str:
        command = [str(CHROMIUM), *flags, "--dump-dom", f"{page.as_uri()}#{fragment}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run


def tags(document: str) -> list[tuple[str, dict[str, str]]]:
    """Every tag with its attributes."""
    found: list[tuple[str, dict[str, str]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, {k: v or "" for k, v in attributes}))  # type: ignore[method-assign]
    parser.feed(document)
    return found


def text_of(document: str, element: str) -> str:
    [inner] = re.findall(rf'id="{element}"[^>]*>([^<]*)<', document)
    return html.unescape(inner)


def test_html_in_texts_is_escaped_everywhere(hostile: Path) -> None:
    page = hostile.read_text()
    assert HOSTILE not in page
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert page.count("</script>") == 2  # that of the data and that of the script


def test_a_page_allows_its_own_script_and_styles_and_nothing_else(hostile: Path) -> None:
    page = hostile.read_text()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    inline = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    assert len(inline) == 3
    for content in inline:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attributes in tags(page):
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert all(attributes.get(name, "data:").startswith("data:") for name in ("src", "href"))


@needs_browser
def test_what_a_text_says_is_shown_and_not_run(seen: str) -> None:
    [title] = re.findall(r"<title>(.*?)</title>", seen)
    assert title.startswith("Trace: &lt;/p&gt;")
    [shown] = re.findall(r"<h1>(.*?)</h1>", seen, re.DOTALL)
    assert html.unescape(shown) == HOSTILE


@needs_browser
def test_the_figures_are_drawn(seen: str) -> None:
    figures = re.findall(r"<h3>([^<]*)</h3>", seen)
    assert figures == ["What the answer attends to", "Heat map", "Similarity", "Path", "Size by position"]
    assert seen.count('class="name') == 7  # a row each of what is known of a latent
    assert "NaN" not in re.sub(r"<script.*?</script>", "", seen, flags=re.DOTALL)
    assert 'data-theme="dark"' in seen


@needs_browser
def test_a_link_opens_a_latent_and_a_budget(seen: str) -> None:
    assert text_of(seen, "count") == "2"
    assert re.search(r"<dt>latent</dt><dd[^>]*>3 of 4</dd>", seen)
    marked = [
        attributes.get("data-k", "") for _, attributes in tags(seen) if "at" in attributes.get("class", "").split()
    ]
    assert marked.count("2") == len(marked) - 1 == 7  # a cell a row, and the tick of the budget


@needs_browser
def test_a_page_of_a_question_alone_and_of_one_latent_opens_too(
    rot: RoT, embedded: Path, browse: Callable[..., str], tmp_path: Path
) -> None:
    traced = trace(rot, Row("", "7?", "", ""), LatentIndex(EmbeddingShards(embedded)), TrueLatents(rot), budget=1)
    write_trace(tmp_path / "trace.html", traced, rot.config)
    opened = browse(tmp_path / "trace.html")
    assert len(re.findall(r"<h3>", opened)) == 5
    assert text_of(opened, "count") == "1"
    assert "NaN" not in re.sub(r"<script.*?</script>", "", opened, flags=re.DOTALL)
    assert ">reference<" not in opened


# The demo's report.


@pytest.fixture(scope="module")
def report(embedded: Path, stage1_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    first = out / "stage1"
    first.mkdir()
    history = [{"step": step, "loss": 3.0, "alignment": 1 / step, "glyphs": 2 / step} for step in (1, 2, 4)]
    (first / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    return write_report(out, RECORD, embedded=embedded, stages=[first, stage1_checkpoint], budget=2)


def test_the_report_shows_a_strip_and_what_one_answer_thought(report: Path) -> None:
    page = report.read_text()
    assert report.name == "report.html"
    assert page.count("data:image/png;base64,") == 1
    assert page.count("How many") == 1
    assert page.count('class="who"') == 2  # a random model has no glyph probe
    assert 'href="trace.html"' in page
    assert (report.parent / "trace.html").read_text().startswith("<!doctype html>")


def test_the_report_has_intervals_and_draws_accuracy_and_losses(report: Path) -> None:
    page = report.read_text()
    assert page.count("43.0 to 57.0") == 3
    by_budget, losses = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert by_budget.count("<circle") == 3
    assert by_budget.count("<polygon") == 1
    assert losses.count("<polyline") == 2
    assert ">alignment</text>" in losses


class _Replies:
    """Stands for a model: fixed replies with latents and without."""

    def __init__(self, thought: list[str], at_once: list[str]) -> None:
        self.replies = {None: thought, 0: at_once}

    def generate(self, questions: list[str], *, budget: int | None) -> list[SimpleNamespace]:
        return [SimpleNamespace(reply=f"#### {reply}") for reply in self.replies[budget][: len(questions)]]


@pytest.mark.parametrize(
    ("thought", "at_once", "shown"),
    [
        (["1", "9", "3"], ["1", "2", "9"], "c"),  # a is known without thinking, b is not known at all
        (["9", "2", "3"], ["9", "9", "9"], "b"),
        (["1", "2", "3"], ["1", "2", "3"], "a"),  # none hangs on latents: the first
    ],
)
def test_the_report_shows_the_first_question_that_is_right_only_with_its_latents(
    thought: list[str], at_once: list[str], shown: str
) -> None:
    rows = [Row(name, name, "", answer) for name, answer in zip("abc", "123", strict=True)]
    rot: Any = _Replies(thought, at_once)
    assert _telling(rot, rows, None).id == shown


@needs_browser
def test_the_report_opens_in_a_browser(report: Path, browse: Callable[..., str]) -> None:
    opened = browse(report)
    assert "<title>Render-of-Thought: demo report</title>" in opened
    assert ">in latents</td>" in opened


def test_every_name_that_a_page_uses_is_given() -> None:
    for name in ("report.html.j2", "trace.html.j2"):
        with pytest.raises(UndefinedError):
            environment("rottrain").get_template(name).render(policy="", styles=[], record={})
