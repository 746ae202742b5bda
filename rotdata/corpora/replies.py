r"""A model's or a person's reply -> its chain of thought and its bare final answer. Knows no fields.

Corpora of replies mark the answer in one of a few ways: "#### 7", "The answer is: 7", \boxed{7}. Models that think
before they reply put the thinking between <think> and </think>, or into a field of its own.
"""

from __future__ import annotations

import re

from rotdata.corpora.cot_text import last_boxed

_THOUGHT = re.compile(r"\s*<think>(.*)</think>(.*)", re.DOTALL)
_MARK = "####"
_SAYS = re.compile(
    r"(?:^|(?<=[\s.*]))(?:[Ss]o |[Hh]ence,? |[Tt]hus,? |[Tt]herefore,? )?[Tt]he (?:final )?answer is\b:?\s*"
)
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?![\w])")
_LONGEST_ANSWER = 100
"""Characters of a bare answer, more are a sentence."""


class Unmarked(Exception):
    """Why no answer can be told in a reply."""

    def __init__(self) -> None:
        super().__init__(
            'no "####", "The answer is" or \\boxed{} marks the answer; with --last-number its last number is it'
        )


def split_reply(reply: str, *, thought: str = "", last_number: bool = False) -> tuple[str, str]:
    """Chain of thought and answer of a reply, whose thinking stands in <think> or, as `thought`, apart, or in itself.

    A reply that follows a thought may be the bare answer. Raises Unmarked.
    """
    if not thought.strip() and (found := _THOUGHT.match(reply)):
        thought, reply = found.groups()
    told = _marked(reply) or (_bare_reply(reply) if thought.strip() else None)
    told = told or (_last_number(reply) if last_number else None)
    if told is None:
        raise Unmarked
    cot, answer = told
    return thought.strip() or cot, answer


def thought_of(reply: str) -> str:
    """The thinking between <think> and </think> of a reply, or all of it."""
    found = _THOUGHT.match(reply)
    return found.group(1).strip() if found else reply


def _marked(reply: str) -> tuple[str, str] | None:
    """What stands before a reply's answer, and the answer, where it is marked."""
    before, mark, answer = reply.rpartition(_MARK)
    if mark:
        return before.strip(), _SAYS.split(answer)[0].strip()
    boxed = last_boxed(reply)
    if found := list(_SAYS.finditer(reply)):
        said = reply[found[-1].end() :].strip()
        answer = last_boxed(said) or _bare(said)
        if answer:
            return reply[: found[-1].start()].strip() or reply.strip(), answer
    return None if boxed is None else (reply.strip(), boxed)


def _bare(said: str) -> str:
    """The answer of "The answer is 7." without what ends the sentence."""
    line = said.partition("\n")[0].strip()
    if len(line) > 1 and line.startswith("$") and line.rstrip(".").endswith("$"):
        line = line.rstrip(".").strip("$")
    return line.removesuffix(".").strip("* ").strip()


def _bare_reply(reply: str) -> tuple[str, str] | None:
    """A short reply that is an answer and no sentence."""
    bare = reply.strip()
    sentence = bare.endswith((".", "!", "?")) and " " in bare
    return ("", bare) if bare and "\n" not in bare and len(bare) <= _LONGEST_ANSWER and not sentence else None


def _last_number(reply: str) -> tuple[str, str] | None:
    found = _NUMBER.findall(reply)
    return (reply.strip(), found[-1]) if found else None
