"""Requests that come one by one -> batches: what waits while one runs makes the next. Knows no HTTP and no model.

One batch runs at a time, in a thread of its own, so that requests are taken while it does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Settings = TypeVar("Settings", bound=Hashable)
Made = TypeVar("Made")


class QueueFull(Exception):
    """As many requests wait as may."""


class Batcher(Generic[Settings, Made]):
    """Answers questions in batches of equal settings, in the order in which they came."""

    def __init__(
        self, answer: Callable[[Sequence[str], Settings], Sequence[Made]], *, batch_size: int, most_waiting: int
    ) -> None:
        self._answer = answer
        self._batch_size = batch_size
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[str, Settings, asyncio.Future[Made]]] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")

    async def ask(self, question: str, settings: Settings) -> Made:
        """The answer to a question, once its batch is done. Raises QueueFull, and what answering raised."""
        if len(self._waiting) >= self._most_waiting:
            raise QueueFull
        answered: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, settings, answered))
        self._came.set()
        return await answered

    async def run(self) -> None:
        """Answer what comes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._came.wait()
            await asyncio.sleep(0)  # whoever came at the same time is in the queue now
            batch, settings = self._next()
            if not batch:
                continue
            questions = [question for question, _ in batch]
            try:
                made = await loop.run_in_executor(self._thread, self._answer, questions, settings)
            except Exception as error:  # noqa: BLE001 -- each request is told, and the next batch runs
                for _, answered in batch:
                    if not answered.done():
                        answered.set_exception(error)
                continue
            for (_, answered), each in zip(batch, made, strict=True):
                if not answered.done():  # whoever left before is past telling
                    answered.set_result(each)

    def _next(self) -> tuple[list[tuple[str, asyncio.Future[Made]]], Settings]:
        """The first that wait and have the settings of the first; those who left are dropped."""
        waiting = [each for each in self._waiting if not each[2].done()]
        settings = waiting[0][1] if waiting else None
        chosen = [each for each in waiting if each[1] == settings][: self._batch_size]
        taken = set(map(id, chosen))
        self._waiting = deque(each for each in waiting if id(each) not in taken)
        if not self._waiting:
            self._came.clear()
        return [(question, answered) for question, _, answered in chosen], settings  # type: ignore[return-value]
