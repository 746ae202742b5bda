"""What tests of rottrain's commands share: small recipes, and commands with their usual arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import Result

Run = Callable[..., Result]

SMALL = "batch_size: 4\nmax_steps: 2\nrollout: teacher\n"


@pytest.fixture
def recipe1(tmp_path: Path) -> Path:
    """A stage-1 recipe of two small steps."""
    file = tmp_path / "stage1.yaml"
    file.write_text(f"{SMALL}head: {{hidden: 16}}\n")
    return file


@pytest.fixture
def recipe2(tmp_path: Path) -> Path:
    """A stage-2 recipe of two small steps."""
    file = tmp_path / "stage2.yaml"
    file.write_text(f"{SMALL}lora: {{rank: 2}}\n")
    return file


@pytest.fixture
def stage1_arguments(embedded: Path, tiny_folder: Path, recipe1: Path, tmp_path: Path) -> list[object]:
    """`rottrain stage1` on the small shards."""
    return ["stage1", "--shards", embedded, "--model", tiny_folder, "--out", tmp_path / "out", "--config", recipe1]


@pytest.fixture
def ask(run_rottrain: Run, stage2_checkpoint: Path) -> Run:
    """Run `rottrain generate` with a small budget."""
    return lambda *arguments: run_rottrain("generate", stage2_checkpoint, *arguments, "--budget", 2)
