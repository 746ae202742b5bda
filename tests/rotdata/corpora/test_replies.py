"""Replies of people and models: where the chain of thought ends and what the answer is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.corpora.readers import CORPORA, Fields, Row, Unusable
from rotdata.corpora.replies import Unmarked, split_reply


@pytest.mark.parametrize(
    ("reply", "cot", "answer"),
    [
        ("3+4=7\n#### 7", "3+4=7", "7"),
        ("3+4=7\n#### 7\nThe answer is: 7", "3+4=7", "7"),
        ("So 7. The answer is: 7", "So 7.", "7"),
        ("So 7. Therefore, the final answer is $\\frac{1}{2}$.", "So 7.", "\\frac{1}{2}"),
        ("So half. The answer is $\\boxed{\\frac{1}{2}}$.", "So half.", "\\frac{1}{2}"),
        ("Hence \\boxed{7}.", "Hence \\boxed{7}.", "7"),
        ("The answer is 7.", "The answer is 7.", "7"),
        ("If the answer is odd, ... The answer is **9**.", "If the answer is odd, ...", "9"),
        ("<think>3+4\nis 7</think>\n\n7", "3+4\nis 7", "7"),
        ("<think>3+4</think>Thus \\boxed{7}", "3+4", "7"),
    ],
)
def test_a_reply_is_reasoning_and_an_answer(reply: str, cot: str, answer: str) -> None:
    assert split_reply(reply) == (cot, answer)


def test_a_thought_that_stands_apart_is_the_reasoning() -> None:
    assert split_reply("7", thought="3+4") == ("3+4", "7")
    assert split_reply("I add: \\boxed{7}", thought="3+4") == ("3+4", "7")


@pytest.mark.parametrize("reply", ["It is 7 of 9.", "7", "", "<think>3+4</think>It may be 7 then."])
def test_an_answer_that_nothing_marks_is_taken_only_where_asked(reply: str) -> None:
    with pytest.raises(Unmarked, match="--last-number"):
        split_reply(reply)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("It is 7 of 1,234.5.", "1,234.5"),
        ("So -3", "-3"),
        ("1/2 is left, in v2 of it", "1/2"),
        ("#### 4, not 5", "4, not 5"),
    ],
)
def test_the_last_number_answers_where_asked(reply: str, answer: str) -> None:
    assert split_reply(reply, last_number=True)[1] == answer


@given(st.text(), st.text(), st.booleans())
def test_any_text_is_split_or_refused(reply: str, thought: str, last_number: bool) -> None:
    try:
        cot, answer = split_reply(reply, thought=thought, last_number=last_number)
    except Unmarked:
        return
    assert isinstance(cot, str)
    assert answer in reply


TURNS = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3+4=7\n#### 7"}]
SAID = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3+4=7\n#### 7"}]


@pytest.mark.parametrize(
    ("corpus", "record"),
    [
        ("metamath", {"query": "How many?", "response": "3+4=7\nThe answer is: 7", "type": "GSM_SV"}),
        ("openmath", {"problem": "How many?", "generated_solution": "3+4=7", "expected_answer": 7}),
        ("openmath", {"problem": "How many?", "generated_solution": "<think>3+4=7</think>", "expected_answer": "7"}),
        ("alpaca", {"instruction": "How many?", "input": "", "output": "3+4=7\n#### 7"}),
        ("alpaca", {"instruction": "How", "input": "many?", "output": "3+4=7\n#### 7"}),
        ("sharegpt", {"conversations": SAID}),
        ("sharegpt", {"conversations": [{"from": "system", "value": "Add."}, *SAID, *SAID]}),
        ("chat", {"messages": TURNS}),
        ("chat", TURNS),
        ("chat", {"messages": [{"role": "system", "content": "Add."}, *TURNS, {"role": "user", "content": "more"}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "How many?"}]}, TURNS[1]]}),
        ("chat", {"messages": [TURNS[0], {"role": "assistant", "reasoning_content": "3+4=7", "content": "7"}]}),
        ("chat", {"messages": [TURNS[0], {"role": "assistant", "content": "<think>3+4=7</think>7"}]}),
        (
            "openr1",
            {
                "problem": "How many?",
                "answer": "7",
                "generations": ["<think>8</think>8", "<think>3+4=7</think>7"],
                "correctness_math_verify": [False, True],
            },
        ),
    ],
)
def test_corpora_of_replies_become_rows(corpus: str, record: Any) -> None:
    row = CORPORA[corpus](record, Fields())
    assert (row.question.replace("\n", " "), row.cot, row.answer) == ("How many?", "3+4=7", "7")


@pytest.mark.parametrize(
    ("corpus", "record", "reason"),
    [
        ("chat", {"messages": TURNS[:1]}, "no turn of a user that a model replies to"),
        ("chat", {"messages": "hello"}, "a conversation is a list of turns, got str"),
        ("chat", {"messages": [TURNS[0], {"role": "assistant", "content": None}]}, "field 'content' is NoneType"),
        ("sharegpt", {"conversations": TURNS}, "no turn of a user"),
        ("openr1", {"problem": "q", "answer": "7"}, "no field 'generations'"),
        ("alpaca", {"instruction": "Sing", "input": None, "output": "La"}, "--last-number"),
    ],
)
def test_what_is_no_conversation_says_why(corpus: str, record: Any, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        CORPORA[corpus](record, Fields())


def test_fields_within_fields_can_be_named() -> None:
    record = {"messages": [{"content": "q"}, {"content": "c"}], "meta": {"answers": [7, 8]}, "a.b": "dotted"}
    within = Fields(question="messages[0].content", cot="messages[-1].content", answer="meta.answers[0]", id="a.b")
    assert CORPORA["generic"](record, within) == Row("dotted", "q", "c", "7")
    for lost in ("messages[2].content", "meta.nothing", "messages.content", "meta[0]", "messages[0]..x["):
        with pytest.raises(Unusable, match="no field"):
            CORPORA["generic"](record, Fields(question="messages[0].content", cot=lost, answer="meta.answers[0]"))
