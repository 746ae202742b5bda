"""Files are written whole or not at all, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotdata.errors import OutputOccupied
from rotdata.shards import (
    REJECTS,
    locked,
    write_atomically,
    write_rejects,
    write_shard,
)
from tests.helpers import REPOSITORY, contents
from tests.rotdata.shards.samples import (
    embedding_table,
)


def test_nothing_but_the_written_file_stays(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.parquet", embedding_table([np.zeros((1, 2), np.float16)], 2))
    write_atomically(tmp_path / "b.json", b"{}")
    write_rejects(tmp_path, [{"shard": 0, "id": "x", "reason": "y"}])
    assert set(contents(tmp_path)) == {"a.parquet", "b.json", REJECTS}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a", b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotdata.output.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rotdata",
        "render",
        "toy",
        "--corpus",
        "toy",
        "--limit",
        "2",
        "--out",
        str(tmp_path),
    ]
    with locked(tmp_path):
        refused = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert refused.returncode == OutputOccupied.exit_code
    assert f"another process is writing {tmp_path}" in refused.stderr
    assert contents(tmp_path) == {}
    allowed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert allowed.returncode == 0


def test_the_lock_leaves_no_file_and_goes_with_its_holder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        assert contents(tmp_path) == {}
