"""rotdata embed: JSON whose keys are pinned, options that reach the manifest, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rotdata.encoders import default_precision
from rotdata.shards import Manifest
from tests.helpers import Result, assert_refused
from tests.rotdata.cli.rows import TOY

Run = Callable[..., Result]


def test_embed_prints_its_pinned_keys(run_rotdata: Run, toy_strips: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    result = run_rotdata("embed", toy_strips, "--model", tiny_folder, "--device", "cpu", "--out", out, "--json")
    summary = json.loads(result.out)
    assert result.code == 0
    assert {"rows_in", "rows_out", "rows_rejected", "latents", "shards", "seconds", "bytes"} <= summary.keys()
    assert (summary["rows_in"], summary["rows_out"], summary["shards"]) == (10, 10, 3)
    assert summary["bytes"] == sum(file.stat().st_size for file in out.glob("*.parquet"))
    assert Manifest.load(out).encoder["dtype"] == default_precision("cpu")


def test_every_option_that_decides_bytes_reaches_the_settings(
    run_rotdata: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    run_rotdata(*TOY, "--max-latents", 60, "--too-long", "truncate", "--out", tmp_path / "strips")
    options = ("--store", "float32", "--patches-per-call", 100, "--dtype", "bfloat16", "--device", "cpu")
    run_rotdata("embed", tmp_path / "strips", "--model", tiny_folder, *options, "--out", tmp_path / "embedded")
    manifest = Manifest.load(tmp_path / "embedded")
    assert manifest.settings == {
        "max_latents": 60,
        "too_long": "truncate",
        "patches_per_call": 100,
        "store": "float32",
    }
    assert manifest.encoder["dtype"] == "bfloat16"


def test_an_unknown_model_exits_2(run_rotdata: Run, toy_strips: Path, tmp_path: Path) -> None:
    result = run_rotdata("embed", toy_strips, "--model", "gpt", "--out", tmp_path / "out")
    assert_refused(result, 2, "unknown model 'gpt': known are tiny, qwen3-vl")


def test_a_truncated_shard_exits_1_when_it_is_read(
    run_rotdata: Run, strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = sorted(strips.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:500])
    result = run_rotdata("embed", strips, "--model", tiny_folder, "--out", tmp_path / "out")
    assert result.code == 1
    assert f"{file.name} can't be read" in result.err
    assert "Traceback" not in result.err


def test_strips_of_another_height_exit_1_with_the_remedy(run_rotdata: Run, tiny_folder: Path, tmp_path: Path) -> None:
    run_rotdata(*TOY, "--height", 28, "--out", tmp_path / "strips")
    result = run_rotdata("embed", tmp_path / "strips", "--model", tiny_folder, "--out", tmp_path / "out")
    assert_refused(result, 1, "are 28 px high, tiny-random needs 32: render them with --height 32")
