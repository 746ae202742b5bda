"""Shards made on a Ray cluster: Ray Data, one task one named shard, by actors that hold what is slow to load.

The folders must be on a file system that all hosts share. Ray is an extra: render-of-thought[ray].
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from rotdata.console import say
from rotdata.errors import Interrupted, RotError, UsageError
from rotdata.extras import needing
from rotdata.runs.resumable import Job, Maker, Progress, Stopped, WorkerDied, Written

_TRIES = 3
"""Of a shard whose actors die over it."""
_STOP_CHECK_S = 0.2


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

        After an error, as after a request to stop, no further shard is begun, and those in hand are kept. Raises
        MissingExtra without Ray, UsageError without a cluster, WorkerDied for what goes wrong in the cluster, and what
        the maker raised first.
        """
        if not pending:
            return
        failure: Exception | None = None
        with _cluster() as ray:
            self._look_for_room(ray)
            ledger = ray.remote(num_cpus=0)(_Ledger).remote()
            jobs = [{"shard": index, "job": pickle.dumps(self.job(index))} for index in pending]
            made = (
                ray.data.from_items(jobs, override_num_blocks=len(jobs))
                .map(
                    _Actor,
                    fn_constructor_args=(pickle.dumps(self.maker), ledger, str(Path.cwd())),
                    compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(jobs))),
                    num_cpus=self.cpus,
                    num_gpus=self.gpus or None,
                )
                .iter_batches(
                    batch_size=None, batch_format="pyarrow", prefetch_batches=0
                )  # iter_rows lags by one shard
            )
            try:
                with _passing_on(stopped, ledger, ray):
                    for found in _unpacked(made):
                        if isinstance(found, Exception):
                            if failure is None:
                                failure = found
                                _halt(ledger, ray)
                        elif found is not None:
                            yield found
            except ray.exceptions.RayError as error:
                raise failure or WorkerDied(
                    f"the cluster gave up ({type(error).__name__}): the same command resumes; `ray status` shows what "
                    "it has left"
                ) from error
        if failure:
            raise failure

    def _look_for_room(self, ray: Any) -> None:
        """Say so if no host of the cluster could ever hold an actor: one that can may join it."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(host.get(name, 0) >= count for name, count in wanted.items()) for host in hosts):
            needs = ", ".join(f"{count:g} {name}" for name, count in wanted.items() if count)
            say(f"no host of the cluster has what an actor needs ({needs}): waiting for one to join")


@contextmanager
def _passing_on(stopped: Stopped, ledger: Any, ray: Any) -> Iterator[None]:
    """Let the cluster know, within moments, that a stop was asked for; and people, that it knows."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_STOP_CHECK_S):
            if stopped():
                with suppress(ray.exceptions.RayError):  # what is wrong with the cluster shows where shards are awaited
                    _halt(ledger, ray)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _unpacked(made: Iterator[Any]) -> Iterator[tuple[int, Written] | Exception | None]:
    """What actors gave back, from Arrow tables."""
    for rows in made:
        for each in rows.column("made").to_pylist():
            yield pickle.loads(each)  # noqa: S301 -- of our own actors


def _halt(ledger: Any, ray: Any) -> None:
    """Have no further shard begun, on any host. Raises RayError."""
    ray.get(ledger.stop.remote())
    say("the cluster begins no further shard: those in hand are finished")


class _Ledger:
    """For all hosts to see: whether all are to stop, and how often each shard was begun."""

    def __init__(self) -> None:
        self._stopped = False
        self._begun: Counter[int] = Counter()

    def stop(self) -> None:
        self._stopped = True

    def begin(self, shard: int) -> int:
        """Which try at the shard this is, from 1; 0 if none is to be begun."""
        if self._stopped:
            return 0
        self._begun[shard] += 1
        return self._begun[shard]


class _Actor:
    """A worker of the cluster: a row with a job in, a row with a shard, an error or nothing out."""

    def __init__(self, maker: bytes, ledger: Any, folder: str) -> None:
        with suppress(FileNotFoundError):  # relative paths then mean what they mean to the driver
            os.chdir(folder)
        self._maker: Maker[Any] = pickle.loads(maker)  # noqa: S301 -- of our own driver
        self._ledger = ledger

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        found: tuple[int, Written] | Exception | None = None
        attempt = ray.get(self._ledger.begin.remote(row["shard"]))
        if attempt > _TRIES:
            found = WorkerDied(
                f"shard {row['shard']} ended its worker {_TRIES} times, which one does that is out of memory: give the "
                "actors more, or lower --patches-per-call; the same command resumes"
            )
        elif attempt:
            try:
                jobs = iter([pickle.loads(row["job"])])  # noqa: S301
                [found] = [each for each in self._maker(jobs, lambda: False) if not isinstance(each, Progress)]
            except RotError as error:
                found = error
            except OSError as error:  # a full disk: its number names the remedy
                found = error
        return {"made": pickle.dumps(found)}


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; what was started here is stopped again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with needing("ray", "--engine ray"):
        import ray
        import ray.data
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster can be reached at {address or 'this machine'}: {error}") from error
        except SystemExit as told:  # a SIGTERM that found Ray's handler in place
            raise Interrupted("stopped while Ray was starting, before any shard; the same command resumes") from told
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray puts one of its own, which exits
                signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
