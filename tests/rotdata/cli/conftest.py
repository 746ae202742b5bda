"""What tests of rotdata's commands share: strips that may be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def strips(toy_strips: Path, tmp_path: Path) -> Path:
    """A copy of the toy strips that a test may damage."""
    return Path(shutil.copytree(toy_strips, tmp_path / "strips"))
