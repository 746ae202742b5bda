"""What tests of both packages share: no network, hypothesis without deadlines, model and shard folders made once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # a thread a worker: with more, threads wait for threads of other workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rotdata.corpora import Source
from rotdata.rendering import fonts
from rotdata.rendering.strips import StripStyle, renderer
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from tests.helpers import Result, StandInEncoder
from tests.squares import NAME, save_squares

settings.register_profile("facts", deadline=None, derandomize=True, database=None)
settings.load_profile("facts")


@pytest.fixture
def run_rotdata(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `rotdata ARGUMENTS` in this process as the console script does."""
    from rotdata.cli import main

    return _console("rotdata", main, monkeypatch, capsys)


@pytest.fixture
def run_rottrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `rottrain ARGUMENTS` in this process as the console script does."""
    from rottrain.cli import main

    return _console("rottrain", main, monkeypatch, capsys)


def _console(
    program: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def rot_data() -> Path:
    """The folder of real corpora that ROT_DATA names; tests that need it are skipped without it."""
    folder = os.environ.get("ROT_DATA")
    if not folder:
        pytest.skip("ROT_DATA names no folder of real corpora")
    return Path(folder)


@pytest.fixture(scope="session")
def squares_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a font with a few East Asian characters, in a folder that XDG_DATA_HOME may name."""
    folder = tmp_path_factory.mktemp("data") / "fonts"
    folder.mkdir()
    return save_squares(folder / "squares.ttf")


@pytest.fixture
def squares(squares_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of that font, on a machine that has no other, for processes that this one starts as well."""
    monkeypatch.setenv("XDG_DATA_HOME", str(squares_file.parents[1]))
    monkeypatch.setattr(fonts, "_system_folders", lambda: [squares_file.parent])
    fonts.installed_fonts.cache_clear()
    yield NAME
    fonts.installed_fonts.cache_clear()


@pytest.fixture
def no_installed_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has the shipped fonts alone."""
    monkeypatch.setattr(fonts, "_system_folders", list)
    fonts.installed_fonts.cache_clear()
    renderer.cache_clear()
    yield
    fonts.installed_fonts.cache_clear()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of tiny's architecture with random fp32 weights. Read only: copy it before changing it."""
    from tests.tinymodel import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-random")


@pytest.fixture(scope="session")
def toy_strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strip shards of 10 toy rows, 4 a shard. Read only: copy them before changing them."""
    out = tmp_path_factory.mktemp("shards") / "strips"
    pipeline.render(Source(location="toy", corpus="toy", limit=10), StripStyle(), out, rows_per_shard=4)
    return out


@pytest.fixture(scope="session")
def toy_embeddings(toy_strips: Path) -> Path:
    """Embedding shards of those strips by a stand-in encoder of D = 4. Read only: copy them before changing them."""
    out = toy_strips.parent / "embeddings"
    pipeline.embed(toy_strips, StandInEncoder(), out)
    return out


@pytest.fixture(scope="session")
def toy_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strip shards of 10 toy rows in cells, 4 a shard. Read only: copy them before changing them."""
    out = tmp_path_factory.mktemp("cells") / "strips"
    pipeline.render(Source(location="toy", corpus="toy", limit=10), StripStyle(cells=6), out, rows_per_shard=4)
    return out


@pytest.fixture(scope="session")
def toy_alone(toy_cells: Path) -> Path:
    """Shards of those strips, each latent its own picture, by a stand-in encoder of D = 4. Read only."""
    out = toy_cells.parent / "alone"
    pipeline.embed(toy_cells, StandInEncoder(), out, settings=EmbedSettings(context="latent"))
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs can't be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
