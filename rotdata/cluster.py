"""Shards made on a Ray cluster: Ray Data, one task one named shard, by actors that hold what is slow to load.

The folders must be on a file system that all hosts share. Ray is an extra: render-of-thought[ray].
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from rotdata.errors import RotError, UsageError
from rotdata.runs import Job, Maker, Stopped, WorkerDied, Written


@dataclass(frozen=True, kw_only=True)
class RayWork(Generic[Job]):
    """A `runs.Work` done by actors of the cluster that RAY_ADDRESS names, or of one started here."""

    maker: Maker[Job]
    """Sent to each actor by pickling."""
    job: Callable[[int], Job]
    actors: int
    cpus: float = 1
    """Of each actor."""
    gpus: float = 0

    def __call__(self, pending: list[int], stopped: Stopped) -> Iterator[tuple[int, Written]]:
        """Shards as they come; an actor that is lost is replaced, and its shard made again.

        Raises UsageError without Ray, WorkerDied for what goes wrong in the cluster, and what the maker raised.
        """
        if not pending:
            return
        with _cluster() as ray:
            stop = ray.remote(num_cpus=0)(_Flag).remote()
            jobs = [{"job": pickle.dumps(self.job(index))} for index in pending]
            made = (
                ray.data.from_items(jobs, override_num_blocks=len(jobs))
                .map(
                    _Actor,
                    fn_constructor_args=(pickle.dumps(self.maker), stop),
                    compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(jobs))),
                    num_cpus=self.cpus,
                    num_gpus=self.gpus or None,
                )
                .iter_rows()
            )
            try:
                for row in made:
                    found = pickle.loads(row["made"])  # noqa: S301 -- of our own actors
                    if isinstance(found, Exception):
                        raise found
                    if found is not None:
                        yield found
                    if stopped():
                        ray.get(stop.set.remote())
            except ray.exceptions.RayError as error:
                raise WorkerDied(
                    f"the cluster gave up ({type(error).__name__}): the same command resumes; `ray status` shows what "
                    "the actors wait for"
                ) from error


class _Flag:
    """Whether all are to stop, for all hosts to see."""

    def __init__(self) -> None:
        self._on = False

    def set(self) -> None:
        self._on = True

    def is_set(self) -> bool:
        return self._on


class _Actor:
    """A worker of the cluster: a row with a job in, a row with a shard, an error or nothing out."""

    def __init__(self, maker: bytes, stop: Any) -> None:
        self._maker: Maker[Any] = pickle.loads(maker)  # noqa: S301 -- of our own driver
        self._stop = stop

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        found: tuple[int, Written] | Exception | None = None
        if not ray.get(self._stop.is_set.remote()):
            try:
                [found] = self._maker(iter([pickle.loads(row["job"])]), lambda: False)  # noqa: S301
            except RotError as error:
                found = error
            except OSError as error:  # a full disk: its number names the remedy
                found = error
        return {"made": pickle.dumps(found)}


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; what was started here is stopped again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'render-of-thought[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster can be reached at {address or 'this machine'}: {error}") from error
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray puts one of its own, which aborts
                signal.signal(signal.SIGTERM, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
