"""Shards that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def strips(toy_strips: Path, tmp_path: Path) -> Path:
    """A copy of the toy strips that a test may damage."""
    return Path(shutil.copytree(toy_strips, tmp_path / "strips"))


@pytest.fixture
def embeddings(toy_embeddings: Path, tmp_path: Path) -> Path:
    """A copy of the toy embeddings that a test may damage."""
    return Path(shutil.copytree(toy_embeddings, tmp_path / "embeddings"))
