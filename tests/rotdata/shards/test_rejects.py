"""Rejects come back as they were written."""

from __future__ import annotations

from pathlib import Path

from rotdata.shards import (
    read_rejects,
    write_rejects,
)
from tests.helpers import contents


def test_rejects_round_trip_and_none_leave_no_file(tmp_path: Path) -> None:
    rejects = [
        {"shard": 0, "id": "a\u2028b", "reason": "no glyph for \N{CRAB}\n"},
        {"shard": 1, "id": "", "reason": ""},
    ]
    write_rejects(tmp_path, rejects)
    assert read_rejects(tmp_path) == rejects
    write_rejects(tmp_path, [])
    assert contents(tmp_path) == {}
    assert read_rejects(tmp_path) == []
