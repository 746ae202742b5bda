"""Is this answer right? Extraction of the final answer from a reply, and equality of answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from rotdata.corpora.cot_text import last_boxed
from rottrain.metrics import maths

Kind = Literal["number", "math"]

MARK = "####"
"""What stands before an answer in training and in the corpora that use it."""
DOUBLE_TOLERANCE = Fraction(1, 1000)
"""By how much an answer may miss a reference that is a double's digits: the rule of PAL, from which GSM-Hard comes."""

_NO_NUMBER = re.compile(r"[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
"""What a computation that went wrong prints: no answer, not even to a reference that says the same."""
_MAX_NUMBER = 500  # characters: longer texts are compared as texts
_MAX_EXPONENT = 300  # as large as a double's; 1e999999999 would take all memory

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_SIGNED = rf"[-+]?{_PLAIN}"
_POWER = r"(?:[eE]([-+]?\d+)| ?(?:\\times|\\cdot|[x*\N{MULTIPLICATION SIGN}]) ?10 ?\^ ?\{?([-+]?\d+)\}?)"
_NUMBER = re.compile(rf"([-+]?) ?({_PLAIN}){_POWER}?")
# Sign, whole part of a mixed number, numerator, denominator.
_SLASH = re.compile(rf"([-+]?) ?(?:(\d+) (?:and )?)?({_SIGNED}) ?/ ?({_SIGNED})")
_FRAC = re.compile(rf"([-+]?) ?(\d*) ?\\frac\{{ ?({_SIGNED}) ?\}}\{{ ?({_SIGNED}) ?\}}")

# Words after a number that are no unit of it: they change its value.
_NO_UNIT = (
    "and|or|plus|minus|times|by|over|to|point|below|squared|cubed|pi|sqrt|factorial|half|halves|thirds?|quarters?|fourths?|"
    "fifths?|tenths?|dozen|hundreds?|thousands?|millions?|billions?"
)
_SIGNS = re.compile(
    r"(?:\b(?:US|CA|AU))?\\?\$|[€£¥₹%]|\\%|\N{DEGREE SIGN}[CF]?|\^ ?\{?\\circ\}?"
    rf"|\\(?:text|mbox|mathrm)\{{(?![^{{}}]*\b(?i:{_NO_UNIT})\b)[^{{}}]*\}}"
)
_THIN = re.compile(r"\\[!,;]\s*|(?<=\d)[\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}](?=\d{3})")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_NAMED = re.compile(r"^[^\W\d_]\w* ?= ?")
_WORD = rf"(?!(?i:{_NO_UNIT})\b)(?:[^\W\d_]{{2,}}\.?|[mglLsh]\b)"
_ATTACHED = r"(?:[mck]?m|m?g|kg|[mc]?[lL]|h|hrs?|min|s|lbs?|oz|ft|mph|am|pm)\b"
_UNIT = re.compile(rf"(?<=[\d}}.])(?: {_WORD}|{_ATTACHED})(?:(?:[ /-]| / ){_WORD})*(?:\^?[23]|[²³])?$")

_LAST_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+\N{MINUS SIGN}])?"
    r"(?:\\[dt]?frac\{\d+\}\{\d+\}|\d+ \d+/\d+|(?<!\d)\.\d+"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+|[eE][-+]?\d+)?)"
)
_INLINE_MATH = re.compile(r"\$([^$\n]+)\$")
# TeX takes one digit, letter or command where braces are left out: \frac12.
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\\[A-Za-z]+|\w))"
_LOOSE_FRAC = re.compile(rf"\\[dt]?frac{_ARGUMENT}{_ARGUMENT}")
_BASE = re.compile(r"\d_ ?\{?(\d+)\}?$")
_LIST = re.compile(r"(\\\{|[(\[])[^()\[\]{}]*,[^()\[\]{}]*(?:\\\}|[)\]])")


def kind_of(corpus: str) -> Kind:
    """What the answers of a corpus are."""
    return "math" if corpus.startswith("math") else "number"


def reasoning(reply: str) -> str:
    """What a reply says before its answer mark; all of it, if it never came to that."""
    thought, answered, _ = reply.rpartition(MARK)
    return thought if answered else reply


def extract(reply: str) -> str:
    r"""The answer that a reply declares: the first line of text after its last "####", else its last \boxed, or ""."""
    _, found, rest = reply.rpartition(MARK)
    if found:
        return rest.strip().split("\n", 1)[0].strip()
    return " ".join((last_boxed(reply) or "").split())


def extract_flexible(reply: str, kind: Kind) -> str:
    """The answer of a reply that may declare none: its last number, or "".

    For kind "math", where many answers are no numbers, the declared one, else the last formula between dollar signs,
    else the last number.
    """
    if kind == "math":
        if declared := extract(reply):
            return declared
        if formulas := _INLINE_MATH.findall(reply):
            return str(formulas[-1]).strip()
    numbers = _LAST_NUMBER.findall(reply)
    return numbers[-1] if numbers else ""


def equal(prediction: str, reference: str, kind: Kind) -> bool:
    """Whether a predicted answer is the reference: two numbers by their exact values, other texts by their letters.

    For kind "math", texts that differ and are not both numbers are compared by math-verify. See docs/evaluation.md for
    what counts as a number, and what is deliberately not the same.
    """
    prediction, reference = prediction.strip(), reference.strip()
    if _NO_NUMBER.fullmatch(prediction):
        return False
    if not prediction or prediction == reference:
        return bool(prediction)
    left, right = to_number(prediction, kind), to_number(reference, kind)
    if left is not None and right is not None:
        return left == right or (_is_double(reference) and abs(left - right) < DOUBLE_TOLERANCE)
    if kind == "number":
        return prediction.casefold() == reference.casefold()
    return _same_latex(prediction, reference)


def elect(answers: Sequence[str], kind: Kind) -> list[int]:
    """The majority: numbers of those that say the answer which most say, of equally many the one that was said first.

    Answers are the same by `equal`. Who gave none has no vote; nobody is elected where nobody has.
    """
    parties: list[list[int]] = []
    for number, answer in enumerate(answers):
        if not answer:
            continue
        own = next((party for party in parties if equal(answer, answers[party[0]], kind)), None)
        if own is None:
            parties.append([number])
        else:
            own.append(number)
    return max(parties, key=len, default=[])


def to_number(text: str, kind: Kind = "number") -> Fraction | None:
    r"""The exact value of a number as people write it; None if the text is not one number, or a very long one.

    Sign, thousands separators, decimals, a/b, \frac{a}{b}, 1 1/2, 1.5e3, 1.5 \times 10^3. Signs of currency, percent
    and degrees are left out. For kind "number", so are units after it ("18 dollars", "5 cm^2") and a name before it
    ("x = 5"); in "math", letters are algebra.
    """
    if len(text) > _MAX_NUMBER:
        return None
    plain = _VULGAR.sub(lambda found: " " + unicodedata.normalize("NFKC", found[0]), _braced(text))
    plain = plain.replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-").replace("{,}", ",")
    plain = _bare(_SIGNS.sub(" ", _THIN.sub("", plain)))
    return _value(_bare(_UNIT.sub("", _NAMED.sub("", plain))) if kind == "number" else plain)


def _bare(text: str) -> str:
    """Text on one line, without marks of emphasis around it and a full stop after it."""
    return " ".join(text.split()).strip(" *`").removesuffix(".")


def _value(plain: str) -> Fraction | None:
    if number := _NUMBER.fullmatch(plain):
        exponent = int(number[3] or number[4] or 0)
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return _signed(number[1], _exact(number[2]) * Fraction(10) ** exponent)
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


def _is_double(reference: str) -> bool:
    """Whether a reference's digits are those of a computed double, with a rounding error at the end."""
    whole, point, part = reference.lstrip("-").partition(".")
    return bool(point) and (whole + part).isdigit() and len((whole + part).lstrip("0")) >= 15


def _same_latex(prediction: str, reference: str) -> bool:
    if max(len(prediction), len(reference)) > maths.MAX_CHARACTERS:
        return False
    left, right = _normalise_latex(prediction), _normalise_latex(reference)
    return left == right or (not _differ_by_form(left, right) and maths.same(prediction, reference))


def _differ_by_form(left: str, right: str) -> bool:
    """Whether normalised answers differ in what math-verify overlooks: the base of a numeral, the kind of brackets."""
    bases = [found[1] for text in (left, right) if (found := _BASE.search(text))]
    brackets = [found[1] for text in (left, right) if (found := _LIST.fullmatch(text))]
    return len(set(bases)) == 2 or len(set(brackets)) == 2


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
