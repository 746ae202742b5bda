"""rotdata verify: JSON whose keys are pinned, exit codes of damaged folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rotdata.shards import MANIFEST
from tests.helpers import Result, assert_refused

Run = Callable[..., Result]


def test_verify_prints_its_pinned_keys(run_rotdata: Run, toy_embeddings: Path) -> None:
    result = run_rotdata("verify", toy_embeddings, "--json")
    assert (result.code, json.loads(result.out)) == (0, {"shards": 3, "rows": 10, "mismatches": []})


def test_a_mismatch_exits_4_with_the_json_printed(run_rotdata: Run, strips: Path) -> None:
    file = sorted(strips.glob("*.parquet"))[1]
    file.unlink()
    result = run_rotdata("verify", strips, "--json")
    assert (result.code, json.loads(result.out)) == (
        4,
        {"shards": 3, "rows": 10, "mismatches": [{"file": file.name, "problem": "missing"}]},
    )
    assert f"{file.name}: missing" in run_rotdata("verify", strips).out


@pytest.mark.parametrize("command", ["verify", "embed"])
def test_a_folder_without_manifest_exits_1(run_rotdata: Run, tmp_path: Path, tiny_folder: Path, command: str) -> None:
    options = ("--model", tiny_folder, "--out", tmp_path / "out") if command == "embed" else ()
    assert_refused(run_rotdata(command, tmp_path, *options), 1, "holds no _manifest.json")


def test_a_damaged_manifest_exits_4_and_a_missing_one_1(run_rotdata: Run, strips: Path) -> None:
    (strips / MANIFEST).write_text((strips / MANIFEST).read_text().replace("toy", "boy", 1))
    result = run_rotdata("verify", strips, "--json")
    assert result.code == 4
    found = json.loads(result.out)
    assert found["shards"] == 0
    assert "does not match its own checksum" in found["mismatches"][0]["problem"]
    (strips / MANIFEST).unlink()
    assert_refused(run_rotdata("verify", strips), 1, "holds no _manifest.json")
