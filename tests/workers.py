"""What tests give to other processes to do, in a module that imports next to nothing, so that these start quickly.

Each is a maker, as rotdata.runs has them, of shards that are mere numbers. None of them takes a set time: where one has
to wait, it is for a file or for being told to stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rotdata.errors import ShardMismatch

Stopped = Callable[[], bool]
Made = Iterator[tuple[int, None]]


def await_file(path: Path) -> None:
    """Return once the file is there."""
    while not path.exists():
        time.sleep(0.01)


def die(_jobs: Iterator[int], _stopped: Stopped) -> Made:
    """End the process without a word."""
    os._exit(1)


def die_at_work(jobs: Iterator[int], _stopped: Stopped) -> Made:
    """End the process once it has a job."""
    for _ in jobs:
        os._exit(1)
    yield 0, None


def complain(_jobs: Iterator[int], _stopped: Stopped) -> Made:
    """Raise something that is to be heard."""
    raise ShardMismatch("what a worker has to say")


def wait_to_be_stopped(jobs: Iterator[int], stopped: Stopped) -> Made:
    """Do one job."""
    yield next(jobs), None
    while not stopped():
        time.sleep(0.01)


def hold(jobs: Iterator[int], _stopped: Stopped, *, gate: Path) -> Made:
    """Do job 0; have the others in hand until the gate is there."""
    for job in jobs:
        if job:
            await_file(gate)
        yield job, None


def fail_at_first(jobs: Iterator[int], _stopped: Stopped, *, begun: Path, gate: Path) -> Made:
    """Fail with job 0 once another one is begun; have the others in hand until the gate is there."""
    for job in jobs:
        if job == 0:
            await_file(begun)
            raise ShardMismatch("shard 0 can't be made")
        begun.touch()
        await_file(gate)
        yield job, None
