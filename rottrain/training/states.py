"""States: the checkpoint-STEP folders of a run that lasts, from which it can go on. One counts only if it is whole.

Its file COMPLETE says of which run it is and what its files must hash to. It is written last and removed first.
Knows nothing of what is in a state.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rotdata.console import say
from rotdata.errors import CheckpointError
from rotdata.output import sync_folder
from rotdata.shards import holds_bytes, is_leftover, write_atomically
from rotdata.shards.files import file_sha256
from rottrain import records

COMPLETE = "COMPLETE"
_FOLDER = "checkpoint-"
_REMEDY = "name another state, or start anew with --resume never"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What COMPLETE holds."""

    run: str
    """SHA-256 of what was asked for."""
    processes: int
    """How many trained: each keeps its own random numbers, and takes its own rows."""
    files: dict[str, str]
    """SHA-256 of every other file of the state, by its path in it."""


def complete_states(out: Path) -> list[Path]:
    """Folders of `out` that say that they are complete, oldest first."""
    found = [path.parent for path in out.glob(f"{_FOLDER}*/{COMPLETE}")]
    return sorted(filter(_step, found), key=_step)


def seal(folder: Path, *, run: str, processes: int) -> None:
    """Declare a state complete, once every file of it is on the disk."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE and not is_leftover(path)
    )
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sealed = Seal(
        run=run, processes=processes, files={file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
    )
    write_atomically(folder / COMPLETE, (json.dumps(asdict(sealed), indent=2) + "\n").encode())


def unseal(folder: Path) -> None:
    """Take back that a state is complete, before it is changed."""
    (folder / COMPLETE).unlink(missing_ok=True)
    if folder.exists():
        sync_folder(folder)


def remove(folder: Path) -> None:
    """Remove a state, whole or not."""
    unseal(folder)
    shutil.rmtree(folder)


def remove_incomplete(out: Path) -> None:
    """Remove what a kill has left of states that were being written or removed."""
    for folder in out.glob(f"{_FOLDER}*/"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)


def remove_all(out: Path) -> None:
    """Remove every state."""
    for folder in out.glob(f"{_FOLDER}*/"):
        remove(folder)


def check(folder: Path, *, run: str, processes: int) -> None:
    """Raise CheckpointError unless a state is whole, and of this run in as many processes."""
    if problem := _problem(folder, run, processes):
        raise CheckpointError(f"{problem}: {_REMEDY}")


def newest_whole(out: Path, *, run: str, processes: int, aloud: bool) -> Path | None:
    """The newest state to go on from, None if there is none at all; `aloud`, what is passed over is named.

    Raises CheckpointError if there are some, but none that will do.
    """
    problems: list[str] = []
    for state in reversed(complete_states(out)):
        problem = _problem(state, run, processes)
        if problem is None:
            for each in problems if aloud else ():
                say(f"warning: {each}; going on from {state.name}")
            return state
        problems.append(problem)
    if problems:
        raise CheckpointError(f"no state in {out} will do, {problems[0]}: start anew with --resume never")
    return None


def _problem(folder: Path, run: str, processes: int) -> str | None:
    """Why a state is not to be gone on from."""
    file = folder / COMPLETE
    try:
        content = records.read(file, remedy="it is damaged, or of an earlier release")
        sealed = records.as_record(Seal, content, file, remedy="it is damaged")
    except FileNotFoundError:
        return f"{folder} is no complete training state"
    except CheckpointError as error:
        return str(error)
    for name, sha256 in sealed.files.items():
        if not holds_bytes(folder / name, None, sha256):
            lacks = "is not what was written" if (folder / name).exists() else "is missing"
            return f"{folder} is damaged, {name} {lacks}"
    if sealed.processes != processes:
        return f"{folder} was saved by a run in {sealed.processes} processes, not {processes}"
    return None if sealed.run == run else f"{folder} is a state of another run"


def _step(folder: Path) -> int:
    """Which step a state is of; 0 for a folder of another kind of name."""
    number = folder.name.removeprefix(_FOLDER)
    return int(number) if number.isascii() and number.isdigit() else 0
