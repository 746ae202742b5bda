"""What tests give to other processes to do, in a module that imports next to nothing, so that these start quickly.

Each is a maker, as rotdata.runs.resumable has them, of shards that are mere numbers. None of them takes a set time:
where one has to wait, it is for a file or for being told to stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import count
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


def turn(folder: Path) -> int:
    """How many processes and calls have asked in that folder before."""
    for number in count():
        try:
            (folder / f"turn-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError


def hold(jobs: Iterator[int], _stopped: Stopped, *, folder: Path) -> Made:
    """Do the job that is begun first, of all processes; have the others in hand until the gate is there."""
    for job in jobs:
        if turn(folder):
            await_file(folder / "gate")
        yield job, None


def fail(jobs: Iterator[int], _stopped: Stopped, *, folder: Path) -> Made:
    """Fail with the job that is begun second, of all processes; have the others in hand until the gate is there."""
    for job in jobs:
        if turn(folder) == 1:
            raise ShardMismatch(f"shard {job} can't be made")
        await_file(folder / "gate")
        yield job, None
