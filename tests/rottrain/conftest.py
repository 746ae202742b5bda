"""What tests of rottrain share: a random tiny model, shards of its own tower, and checkpoints of both stages on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rotdata
import rottrain
from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rottrain.config import HeadConfig, LoraSettings, SftConfig, Stage1Config, Stage2Config
from rottrain.model import glyph_probe
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.stages import run_sft, run_stage1, run_stage2
from rottrain.training.trainer import StageTrainer
from tests.helpers import write_jsonl
from tests.rottrain.samples import SUMS, random_head


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def backbone(tiny_folder: Path) -> Backbone:
    """The random tiny model in fp32, loaded anew for each test."""
    return Backbone.load(find_model(str(tiny_folder)), dtype=torch.float32, device="cpu")


@pytest.fixture
def head(backbone: Backbone) -> ProjectionHead:
    """A small random head for it."""
    return random_head(backbone.width)


@pytest.fixture(scope="session")
def short_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 10 rows whose strips have 1 to 6 latents, so that a training step takes no time."""
    records = [
        {
            "id": f"row {n}",
            "question": f"{n}+{n + 1}?",
            "cot": f"{n}+{n + 1}={2 * n + 1}"[: 1 + 2 * n],
            "answer": f"{n}",
        }
        for n in range(10)
    ]
    return write_jsonl(tmp_path_factory.mktemp("short") / "rows.jsonl", records)


@pytest.fixture(scope="session")
def short_strips(short_rows: Path) -> Path:
    """Strip shards of those rows, 4 a shard. Read only."""
    out = short_rows.parent / "strips"
    pipeline.render(Source(location=str(short_rows), corpus="generic"), StripStyle(), out, rows_per_shard=4)
    return out


@pytest.fixture(scope="session")
def embedded(short_strips: Path, tiny_folder: Path) -> Path:
    """Embedding shards of those strips by the random model's own tower. Read only."""
    out = short_strips.parent / "embedded"
    pipeline.embed(short_strips, load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"), out)
    return out


@pytest.fixture(scope="session")
def stage1_checkpoint(embedded: Path, tiny_folder: Path) -> Path:
    """A finished stage-1 checkpoint of a few teacher-forced steps. Read only."""
    out = embedded.parent / "stage1"
    config = Stage1Config.paper(rollout="teacher", batch_size=4, max_steps=2, lr=1e-2, head=HeadConfig(hidden=16))
    run_stage1(embedded, str(tiny_folder), out, config)
    return out


@pytest.fixture(scope="session")
def stage2_checkpoint(embedded: Path, tiny_folder: Path, stage1_checkpoint: Path) -> Path:
    """A finished stage-2 checkpoint whose adapter has moved far enough to change answers. Read only."""
    out = embedded.parent / "stage2"
    config = Stage2Config.paper(
        rollout="teacher", batch_size=4, max_steps=2, lr=3e-2, lora=LoraSettings(rank=4, dropout=0.0)
    )
    run_stage2(embedded, str(tiny_folder), stage1_checkpoint, out, config)
    return out


@pytest.fixture(scope="session")
def picture_strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strips of 32 sums in cells of 6, four latents each. Read only."""
    out = tmp_path_factory.mktemp("pictures") / "strips"
    rotdata.render_corpus(SUMS, out=out, style=StripStyle(cells=6, align_steps=True))
    return out


@pytest.fixture(scope="session")
def picture_shards(picture_strips: Path) -> Path:
    """Their latents by the embedded model's tower, each the picture of its own characters alone. Read only."""
    out = picture_strips.parent / "shards"
    rotdata.embed(picture_strips, out, model="tiny", dtype="float32", context="latent")
    return out


@pytest.fixture(scope="session")
def picture_checkpoint(picture_shards: Path) -> Path:
    """Trained on them for a few steps with picture feedback: enough for thoughts to end by themselves. Read only."""
    out = picture_shards.parent / "stage1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyph_probe, "_STEPS", 150)
        patched = {"max_steps": 20, "lr": 3e-3, "batch_size": 8}
        rottrain.stage1(shards=picture_shards, model="tiny", out=out, recipe="picture", **patched)
    return out


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something while a given step is computed, once."""
    compute_loss = StageTrainer.compute_loss
    planned: dict[int, Callable[[], None]] = {}

    def acting(self: StageTrainer, *arguments: Any, **options: Any) -> Any:
        planned.pop(self.state.global_step + 1, lambda: None)()
        return compute_loss(self, *arguments, **options)

    monkeypatch.setattr(StageTrainer, "compute_loss", acting)
    return planned.__setitem__


@pytest.fixture(scope="session")
def cot_checkpoint(embedded: Path, tiny_folder: Path) -> Path:
    """The base model, fine-tuned in words for one step. Read only."""
    out = embedded.parent / "cot"
    run_sft(embedded, str(tiny_folder), out, SftConfig.paper(mode="cot", batch_size=2, max_steps=1))
    return out
