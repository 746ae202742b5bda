"""The demo's page, as a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from rotdata.corpora import Row
from rotdata.strips import StripStyle, render
from rottrain.report import environment
from rottrain.trace import Nearest, Trace, data_uri, latent_texts

CHROMIUM = shutil.which("chromium")
HOSTILE = "</p><script>document.title='owned'</script>"


def page(question: str) -> str:
    strip = render("<<1+1=2>>", StripStyle())
    png = data_uri(strip.pixels)
    result = {
        "mode": "rot",
        "corpus": "toy",
        "n": 1,
        "accuracy": 1.0,
        "reasoning_tokens": 6,
        "seconds_per_question": 0.1,
    }
    nearest = [
        Nearest(row=0, position=k, characters=text, similarity=0.5)
        for k, text in enumerate(latent_texts("<<1+1=2>>", strip))
    ]
    row = Row(id="a", question=question, cot="<<1+1=2>>", answer="2")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            record={"render": {"rows_out": 1}, "stage1": {"steps": 1}, "stage2": {"steps": 1}, "seconds": 1},
            results=[result | {"budget": 6}],
            sample={"question": question, "cot": "<<1+1=2>>", "png": png, "latents": latent_texts("<<1+1=2>>", strip)},
            traces=[Trace(row=row, answer="2", correct=True, latents=nearest, thought_png=png, reference_png=png)],
            budget=6,
            factor=32,
            indexed=6,
        )
    )


def test_html_in_a_question_is_shown_not_run() -> None:
    assert HOSTILE not in page(HOSTILE)
    assert "&lt;script&gt;" in page(HOSTILE)


def test_every_name_that_the_page_uses_is_given() -> None:
    with pytest.raises(UndefinedError, match="no attribute 'render'"):
        environment().get_template("report.html.j2").render(record={})


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_opens_in_a_browser_without_running_what_a_question_says(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(HOSTILE))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "<title>Render-of-Thought: demo report</title>" in done.stdout
    assert done.stdout.count("<img") == 3
    assert "Render-of-Thought</td>" in done.stdout
