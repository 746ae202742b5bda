"""Batches of what waits: equal settings together, in the order of arrival, nobody lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from rottrain.serving.batching import Batcher, QueueFull


class Answers:
    """Says what it was asked in capitals, keeps the batches, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, questions: Sequence[str], settings: int) -> list[str]:
        self.batches.append((list(questions), settings))
        self.may_answer.wait()
        if "bad" in questions:
            raise ValueError(f"bad among {len(questions)}")
        return [question.upper() for question in questions]


def running(answers: Answers, body: Callable[[Batcher[int, str]], Coroutine[Any, Any, Any]], **limits: int) -> Any:
    async def main() -> Any:
        batcher: Batcher[int, str] = Batcher(answers, **{"batch_size": 4, "most_waiting": 100} | limits)
        worker = asyncio.create_task(batcher.run())
        try:
            return await body(batcher)
        finally:
            answers.may_answer.set()
            worker.cancel()

    return asyncio.run(main())


def test_equal_settings_share_batches_in_the_order_of_arrival() -> None:
    answers = Answers()
    asked = [(name, int(name in "bd")) for name in "abcdefgh"]

    async def body(batcher: Batcher[int, str]) -> list[str]:
        return await asyncio.gather(*(batcher.ask(*each) for each in asked))

    assert running(answers, body) == list("ABCDEFGH")
    assert answers.batches == [(["a", "c", "e", "f"], 0), (["b", "d"], 1), (["g", "h"], 0)]


def test_an_error_is_told_to_its_batch_and_the_next_one_runs() -> None:
    answers = Answers()

    async def body(batcher: Batcher[int, str]) -> list[Any]:
        return await asyncio.gather(
            *(batcher.ask(*each) for each in (("bad", 0), ("good", 0), ("other", 1))), return_exceptions=True
        )

    first, second, third = running(answers, body)
    assert [str(first), str(second), third] == ["bad among 2", "bad among 2", "OTHER"]


def test_more_than_may_wait_are_refused_and_the_rest_is_answered() -> None:
    answers = Answers()
    answers.may_answer.clear()

    async def body(batcher: Batcher[int, str]) -> list[Any]:
        first = asyncio.create_task(batcher.ask("first", 0))
        while not answers.batches:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher.ask(name, 0)) for name in "abc"]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.ask("d", 0)
        answers.may_answer.set()
        return await asyncio.gather(first, *rest)

    assert running(answers, body, most_waiting=3) == ["FIRST", "A", "B", "C"]


def test_who_leaves_while_waiting_is_not_answered() -> None:
    answers = Answers()
    answers.may_answer.clear()

    async def body(batcher: Batcher[int, str]) -> str:
        first = asyncio.create_task(batcher.ask("first", 0))
        while not answers.batches:
            await asyncio.sleep(0.001)
        gone, stays = (asyncio.create_task(batcher.ask(name, 0)) for name in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        answers.may_answer.set()
        await first
        return await stays

    assert running(answers, body) == "STAYS"
    assert answers.batches == [(["first"], 0), (["stays"], 0)]
