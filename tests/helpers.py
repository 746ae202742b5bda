"""Small things that several test modules need: folders as bytes, JSON lines, an encoder without a tower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rotdata.encoders import EncoderIdentity
from rotdata.encoders.patches import PatchGeometry
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards.targets import TargetSettings

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command line left behind."""

    code: int
    out: str
    err: str


def assert_refused(result: Result, code: int, message: str) -> None:
    """The last line on stderr, and no other, is an error that names what is wrong; nothing on stdout, no traceback."""
    assert result.code == code, result.err
    assert message in result.err
    assert [line for line in result.err.splitlines() if line.startswith("error: ")] == [result.err.splitlines()[-1]]
    assert "Traceback" not in result.err
    assert result.out == ""


def run_installed(program: str, *arguments: object, **environment: str) -> Result:
    """Run the console script in a process of its own."""
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, by relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """A file of one record a line; a record that is already text is written as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def storing(**targets: Any) -> EmbedSettings:
    """Settings that differ from the defaults in what is stored."""
    return EmbedSettings(targets=TargetSettings(**targets))


class StandInEncoder:
    """An encoder without a tower: a latent is the mean grey of its columns, D times.

    `before_call` is told the number of calls before each one.
    """

    def __init__(
        self, *, width: int = 4, factor_px: int = 32, before_call: Callable[[int], None] | None = None
    ) -> None:
        self.geometry = PatchGeometry(patch_px=factor_px // 2, merge=2)
        self.identity = EncoderIdentity(
            model="stand-in",
            revision=None,
            tower_sha256="0" * 64,
            tower_values_sha256="0" * 64,
            output="grey",
            factor=factor_px,
            width=width,
            dtype="float32",
        )
        self.device = "cpu"
        self.calls: list[int] = []
        self._before_call = before_call

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Callable[[], list[NDArray[np.float32]]]:
        """Strips [H, W_i] -> [K_i, D], when asked."""
        if self._before_call is not None:
            self._before_call(len(self.calls))
        self.calls.append(len(strips))
        return lambda: [self.latents(strip) for strip in strips]

    def latents(self, strip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[H, W] -> [K, D]."""
        greys = strip.reshape(strip.shape[0], -1, self.identity.factor).mean(axis=(0, 2), dtype=np.float32)
        return np.repeat(greys[:, None], self.identity.width, axis=1)
