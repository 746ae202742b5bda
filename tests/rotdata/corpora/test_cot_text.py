"""Calculator marks, drawings, LaTeX and boxed answers: what is done to a text, whatever the text is."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rotdata.corpora.cot_text import (
    FIGURE,
    Inconvertible,
    last_boxed,
    latex_to_unicode,
    only_calculator,
    strip_calculator,
    treat_asymptote,
)

# Calculator marks.

marked = st.lists(st.sampled_from(["<<1+1=2>>", "<<", ">>", "<", "a ", "=2\n"])).map("".join)


def test_strip_calculator_leaves_the_text_around_the_marks() -> None:
    assert (
        strip_calculator("48/2 = <<48/2=24>>24, so 1 << 3 < 24 and $<<24/2=12>>12")
        == "48/2 = 24, so 1 << 3 < 24 and $12"
    )


@given(marked)
def test_only_and_strip_share_a_text_between_them(text: str) -> None:
    marks = len(re.findall(r"<<[^<>]*>>", text))
    assert len(strip_calculator(text)) <= len(text)
    if marks:
        only = only_calculator(text)
        assert only.count("<<") == only.count(">>") == marks
        assert len(strip_calculator(text)) == len(text) - len(only) + marks - 1
    else:
        assert strip_calculator(text) == text
        with pytest.raises(Inconvertible, match="has no calculator mark"):
            only_calculator(text)


# Drawings.

OPENINGS_AND_ENDS = ["[asy]", "[/asy]", "\\begin{asy}", "\\end{asy}", "[", "x", "\n"]
drawn = st.lists(st.sampled_from(OPENINGS_AND_ENDS)).map("".join)
DRAWING = re.compile(r"\[asy\].*?\[/asy\]|\\begin\{asy\}.*?\\end\{asy\}", re.DOTALL)


@given(drawn)
def test_drawings_are_what_the_obvious_pattern_finds(text: str) -> None:
    assert treat_asymptote(text, "keep") == text
    assert treat_asymptote(text, "drop") == DRAWING.sub("", text)
    assert treat_asymptote(text, "mark") == DRAWING.sub(FIGURE, text)
    if DRAWING.search(text):
        with pytest.raises(Inconvertible, match="holds an Asymptote drawing"):
            treat_asymptote(text, "reject")
    else:
        assert treat_asymptote(text, "reject") == text


@pytest.mark.parametrize("end", ["", "\\end{asy}"])
def test_a_million_openings_are_searched_once(end: str) -> None:
    text = "[asy]" * 1_000_000 + end
    assert treat_asymptote(text, "drop") == text


# LaTeX.


def converted(latex: str) -> str | Inconvertible:
    try:
        return latex_to_unicode(latex)
    except Inconvertible as reason:
        return reason


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        ("\\frac{1}{2}", "1/2"),
        ("$\\pi$", "π"),
        ("$x \\le \\sqrt{2}$", "x ≤√(2)"),
        ("50\\% of \\$3", "50% of $3"),
        ("no LaTeX: 3+4=7", "no LaTeX: 3+4=7"),
        ("\\boxed{7}", "7"),
    ],
)
def test_latex_becomes_the_text_that_it_draws(latex: str, text: str) -> None:
    assert latex_to_unicode(latex) == text


@given(st.text() | st.text("\\{}$%&#^_~[]()abc \n|"))
@example("\\begin{array}a\\end{array}")
@example("\\input{/etc/passwd}")
@example("\\verb|")
def test_any_text_as_latex_is_text_or_inconvertible(latex: str) -> None:
    assert isinstance(converted(latex), str | Inconvertible)


@pytest.mark.parametrize("piece", ["{", "\\frac{", "\\begin{a}", "\\(", "$", "\\sqrt[", "a^{b}_", "%\n", "\\left("])
def test_fifty_thousand_characters_of_one_piece_are_text_or_inconvertible(piece: str) -> None:
    assert isinstance(converted((piece * 50_000)[:50_000]), str | Inconvertible)


def test_longer_latex_is_not_converted() -> None:
    with pytest.raises(Inconvertible, match="LaTeX of 50001 characters is not converted, 50000 are the most"):
        latex_to_unicode("a" * 50_001)


# Boxed answers.


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("so \\boxed{5}", "5"),
        ("\\boxed{1} and then \\boxed{2}.", "2"),
        ("\\boxed{\\frac{1}{2^{n+{1}}}}$.", "\\frac{1}{2^{n+{1}}}"),
        ("\\boxed{\\left\\{1, 2\\right.}", "\\left\\{1, 2\\right."),
        ("\\boxed{a\\}b}", "a\\}b"),
        ("\\fbox{7}", "7"),
        ("\\boxed {8}", "8"),
        ("$\\boxed 9$.", "9"),
        ("\\boxed 10.", "10"),
        ("\\boxed{ 11 }", "11"),
        ("\\boxed{}", ""),
        ("\\boxed{unclosed", None),
        ("\\boxed", None),
        ("no box", None),
        ("", None),
    ],
)
def test_last_boxed(solution: str, answer: str | None) -> None:
    assert last_boxed(solution) == answer


balanced = st.recursive(st.text("ab1 ^\\frac", max_size=5).filter(lambda t: not t.endswith("\\")), lambda inner: (
    st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}")
))  # fmt: skip


@given(st.text(max_size=20), balanced)
@example("\\boxed{1}", "{{}}")
def test_any_balanced_contents_of_a_box_are_found(before: str, inside: str) -> None:
    assert last_boxed(f"{before}\\boxed{{{inside}}} .") == inside.strip()
