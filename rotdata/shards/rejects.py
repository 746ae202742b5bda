"""_rejects.jsonl: the rows that were refused, a line each, with the shard they are missing from and the reason."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rotdata.errors import ShardError
from rotdata.output import write_atomically
from rotdata.shards.files import rejects_file


def read_rejects(folder: Path) -> list[dict[str, Any]]:
    """Lines of _rejects.jsonl: shard, id, reason. Raises ShardError if the file is damaged."""
    file = rejects_file(folder)
    try:
        rejects = [json.loads(line) for line in file.read_text().splitlines()]
        broken = not all(isinstance(reject, dict) and isinstance(reject.get("shard"), int) for reject in rejects)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        broken = True
    if broken:
        raise ShardError(f"{file} is damaged: delete it, and run the command that made it again")
    return rejects


def write_rejects(folder: Path, rejects: Sequence[dict[str, Any]]) -> None:
    """Replace _rejects.jsonl, whole or not at all; no rejects, no file."""
    file = rejects_file(folder)
    if rejects:
        write_atomically(file, b"".join(map(reject_line, rejects)))
    else:
        file.unlink(missing_ok=True)


def rejects_by_shard(rejects: Iterable[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    """Lines of _rejects.jsonl by the index of their shard, each shard's in order."""
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for reject in rejects:
        found[reject["shard"]].append(reject)
    return found


def reject_line(reject: dict[str, Any]) -> bytes:
    """A line of _rejects.jsonl."""
    return json.dumps(reject, ensure_ascii=True).encode() + b"\n"


def rejects_sha256(rejects: Sequence[dict[str, Any]]) -> str:
    """What a shard's entry says of its lines in _rejects.jsonl; nothing if it has none."""
    return hashlib.sha256(b"".join(map(reject_line, rejects))).hexdigest() if rejects else ""
