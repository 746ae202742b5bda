"""Is this answer right? Extraction of the final answer from a reply, and equality of answers. Pure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from rotdata.cot_text import last_boxed

Kind = Literal["number", "math"]

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_SIGNED = rf"[-+]?{_PLAIN}"
_NUMBER = re.compile(rf"([-+]?) ?({_PLAIN})")
# Sign, whole part of a mixed number, numerator, denominator.
_SLASH = re.compile(rf"([-+]?) ?(?:(\d+) )?({_SIGNED}) ?/ ?({_SIGNED})")
_FRAC = re.compile(rf"([-+]?) ?(\d*) ?\\frac\{{ ?({_SIGNED}) ?\}}\{{ ?({_SIGNED}) ?\}}")

_UNITS = re.compile(r"[$€£%]|\\[$%]|\\[!,;]\s*|\\text\{[^{}]*\}")
_LAST_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-+])?(?:\d[\d,]*(?:\.\d+)?|(?<!\d)\.\d+)(?:/\d+)?")
# TeX takes one digit, letter or command where braces are left out: \frac12.
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\\[A-Za-z]+|\w))"
_LOOSE_FRAC = re.compile(rf"\\[dt]?frac{_ARGUMENT}{_ARGUMENT}")


def extract(reply: str) -> str:
    r"""The final answer of a reply: the first line of text after its last "####", else its last \boxed, else number."""
    _, found, rest = reply.rpartition("####")
    if found:
        return rest.strip().split("\n", 1)[0].strip()
    if boxed := last_boxed(reply):
        return boxed
    numbers = _LAST_NUMBER.findall(reply)
    return numbers[-1].rstrip(",") if numbers else ""


def equal(prediction: str, reference: str, kind: Kind) -> bool:
    """Whether two final answers are the same: as exact numbers, or for kind "math" also as normalised LaTeX."""
    if not prediction.strip():
        return False
    left, right = to_number(prediction), to_number(reference)
    if left is not None and right is not None:
        return left == right
    if kind == "math":
        return _normalise_latex(prediction) == _normalise_latex(reference)
    return left is None and right is None and prediction.strip().casefold() == reference.strip().casefold()


def to_number(text: str) -> Fraction | None:
    r"""The exact value of a number as people write it: sign, thousands separators, decimals, a/b, \frac{a}{b}, 1 1/2.

    Signs of currency, percent and LaTeX units are left out. None if the text is not one number.
    """
    plain = _UNITS.sub("", _braced(text)).replace("\N{MINUS SIGN}", "-")
    plain = re.sub(r"\s+", " ", plain).strip().rstrip(".")
    if number := _NUMBER.fullmatch(plain):
        return _signed(number[1], _exact(number[2]))
    quotient = _SLASH.fullmatch(plain) or _FRAC.fullmatch(plain)
    if not quotient:
        return None
    sign, whole, above, below = quotient.groups()
    if not _exact(below) or (whole and not above[0].isdigit()):  # "1 -1/2" is a sum
        return None
    return _signed(sign, int(whole or 0) + _exact(above) / _exact(below))


def _exact(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _braced(latex: str) -> str:
    r"""Every \dfrac, \tfrac and \frac12 as \frac{1}{2}, unless an argument holds braces itself."""
    return _LOOSE_FRAC.sub(
        lambda found: rf"\frac{{{found[1] or found[2] or ''}}}{{{found[3] or found[4] or ''}}}", latex
    )


def _normalise_latex(text: str) -> str:
    plain = text.strip().strip("$").replace("\\left", "").replace("\\right", "")
    plain = re.sub(r"\\[dt]frac", r"\\frac", _braced(plain))
    plain = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", plain)
    plain = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", plain)
    return re.sub(r"(?<!\\)\\[,;! ]|\s|\^\{?\\circ\}?", "", plain).rstrip(".")
