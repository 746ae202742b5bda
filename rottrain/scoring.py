"""Is this answer right? Extraction of the final answer from a reply, and equality of answers. Pure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

Kind = Literal["number", "math"]

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"
_UNITS = re.compile(r"[\s$€£%]+|\\[$%!,;]|\\text\{[^{}]*\}")


def extract(reply: str) -> str:
    """The final answer of a reply: what follows its last "####" up to the end of that line, else its last number."""
    _, found, rest = reply.rpartition("####")
    if found:
        return rest.strip().split("\n", 1)[0].strip()
    numbers = [match for match in re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", reply) if match]
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
    r"""The exact value of a number as people write it: sign, thousands separators, decimals, a/b, \frac{a}{b}, units.

    None if the text is not one number.
    """
    plain = _UNITS.sub("", text).replace("\u2212", "-").rstrip(".")
    fraction = re.fullmatch(rf"([-+]?)\\[dt]?frac\{{({_NUMBER})\}}\{{({_NUMBER})\}}", plain)
    if fraction:
        plain = f"{fraction[1]}{fraction[2]}/{fraction[3]}"
    parts = plain.split("/")
    if len(parts) > 2 or not all(re.fullmatch(_NUMBER, part) and re.search(r"\d", part) for part in parts):
        return None
    values = [Fraction(part.replace(",", "")) for part in parts]
    if len(values) == 1:
        return values[0]
    return values[0] / values[1] if values[1] else None


def _normalise_latex(text: str) -> str:
    plain = text.strip().strip("$").replace("\\left", "").replace("\\right", "")
    plain = re.sub(r"\\[dt]frac", r"\\frac", plain)
    plain = re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", plain)
    return re.sub(r"\s|\\[,;!]|\\ |\^\{?\\circ\}?", "", plain).rstrip(".")
