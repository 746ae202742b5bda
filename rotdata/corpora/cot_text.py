r"""What may be done to the text of a chain of thought: calculator marks, LaTeX, Asymptote drawings, \boxed answers."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text

Calc = Literal["keep", "strip", "only"]
Latex = Literal["raw", "unicode"]
Asymptote = Literal["keep", "drop", "mark", "reject"]

FIGURE = "[figure]"
"""What stands for a drawing under asymptote="mark"."""

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_ASYMPTOTE = {"[asy]": "[/asy]", "\\begin{asy}": "\\end{asy}"}
_OPENING = re.compile("|".join(map(re.escape, _ASYMPTOTE)))
_MAX_LATEX_CHARACTERS = 50_000


class Inconvertible(Exception):
    """Why a text can't be turned into what was asked for."""


def strip_calculator(text: str) -> str:
    """`text` without GSM8K's calculator marks, <<48/2=24>>."""
    return _CALCULATOR.sub("", text)


def only_calculator(text: str) -> str:
    """The calculator marks of `text`, brackets kept, one space between. Raises Inconvertible if there is none."""
    marks = _CALCULATOR.findall(text)
    if not marks:
        raise Inconvertible("the chain of thought has no calculator mark <<...>>")
    return " ".join(marks)


def treat_asymptote(text: str, policy: Asymptote) -> str:
    """`text` with its drawings kept, dropped or marked. Raises Inconvertible for one under "reject"."""
    if policy == "keep":
        return text
    pieces = _around_drawings(text)
    if policy == "reject" and len(pieces) > 1:
        raise Inconvertible("the chain of thought holds an Asymptote drawing")
    return (FIGURE if policy == "mark" else "").join(pieces)


def latex_to_unicode(text: str) -> str:
    r"""LaTeX as Unicode text: \frac{1}{2} becomes 1/2, \pi becomes π. Raises Inconvertible."""
    if len(text) > _MAX_LATEX_CHARACTERS:
        raise Inconvertible(f"LaTeX of {len(text)} characters is not converted, {_MAX_LATEX_CHARACTERS} are the most")
    try:
        return str(_converter().latex_to_text(text, tolerant_parsing=False))
    except RecursionError:
        raise Inconvertible("its LaTeX is nested too deeply to be converted") from None
    except Exception as error:  # pylatexenc raises anything on hostile input, and one row must not end a run
        raise Inconvertible(f"its LaTeX can't be converted: {type(error).__name__}: {error}") from error


def last_boxed(solution: str) -> str | None:
    r"""Contents of the last \boxed{...} (or \fbox) of a MATH solution, nested braces and "\boxed 5" included."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    rest = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not rest.lstrip().startswith("{"):
        word = re.match(r"\s+([^\s$]+)", rest)
        return word.group(1).rstrip(".") if word else None
    rest = rest.lstrip()
    depth = 0
    escaped = False
    for i, character in enumerate(rest):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return rest[1:i].strip()
    return None


def _around_drawings(text: str) -> list[str]:
    """The pieces of `text` between its drawings; an opening that nothing closes is text."""
    last = {opening: text.rfind(closing) for opening, closing in _ASYMPTOTE.items()}
    pieces = []
    kept = position = 0
    while opening := _OPENING.search(text, position):
        position = opening.end()
        if last[opening[0]] >= position:  # no search of the whole rest for each of many openings
            pieces.append(text[kept : opening.start()])
            closing = _ASYMPTOTE[opening[0]]
            kept = position = text.index(closing, position) + len(closing)
    return [*pieces, text[kept:]]


@cache
def _converter() -> LatexNodes2Text:
    from pylatexenc.latex2text import LatexNodes2Text

    logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)  # it would name every macro that it does not know
    return LatexNodes2Text(math_mode="text", keep_comments=True)
