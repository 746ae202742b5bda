"""train-limit: stage 1 under teacher forcing, from shards to the optimizer's step, against the bare language model.

Both go through the same batches of toy problems. The baseline passes embeddings of the same shapes through the language
model and no more: prompts and true latents forward, latents with answers forward and backward to them. What is left
of the ratio is reading, padding, head, losses and optimizer. A random 8x512 model, batch 16, fp32; and stage 2 of it,
where the whole language model learns, for information.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from bench.common import compare
from bench.models import model_8x512
from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards
from rottrain.config import Stage1Config, Stage2Config
from rottrain.data.batches import Batch, Collator, ShardRows
from rottrain.data.rows import RowOrder, Selection
from rottrain.generation import rollout
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner

BATCH, STEPS = 16, 4


def figures() -> Iterator[dict[str, Any]]:
    """The figure, and the same of a stage 2 that trains the language model."""
    model = model_8x512()
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        strips, embedded = folder / "strips", folder / "embedded"
        pipeline.render(Source(location="toy", corpus="toy", limit=BATCH * STEPS), StripStyle(), strips)
        pipeline.embed(strips, load_encoder(model, dtype="float32", device="cpu"), embedded)
        for name, recipe in (
            ("train-limit", Stage1Config.paper(rollout="teacher")),
            ("train-limit-stage2", Stage2Config.paper(rollout="teacher", trainable="full", train_head=True)),
        ):
            torch.manual_seed(0)
            backbone = Backbone.load(model, dtype=torch.float32, device="cpu")
            if recipe.trainable == "full":
                backbone.train_language(head_only=False)
            head = ProjectionHead(width_in=512, width_out=512, hidden=1024, activation="swiglu")
            learner = Learner(backbone, head, recipe).train()
            loader = _loader(embedded, backbone)
            yield compare(
                name, _training(learner, loader), _bare(learner, list(loader)), units=BATCH * STEPS, unit="samples/s"
            )
    finally:
        shutil.rmtree(folder)


def _loader(embedded: Path, backbone: Backbone) -> DataLoader[Any]:
    selections = [Selection.of(EmbeddingShards(embedded))]
    rows = ShardRows(selections, backbone)
    order = RowOrder(selections, seed=0)
    return DataLoader(rows, batch_size=BATCH, sampler=order, collate_fn=Collator(backbone.pad_id))


def _training(learner: Learner, loader: DataLoader[Any]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(learner.trained().values(), lr=1e-6)

    def train() -> None:
        for batch in islice(loader, STEPS):
            batch.pop("ids")
            learner(**batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(learner.trained().values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return train


def _bare(learner: Learner, batches: list[Batch]) -> Callable[[], None]:
    backbone = learner.backbone

    def passes() -> None:
        for batch in batches:
            rows, prompt = batch["prompt_ids_BP"].shape
            latents, answer = batch["targets_BKD"].shape[1], batch["answer_ids_BA"].shape[1]
            with torch.set_grad_enabled(learner.language_learns):
                cache = backbone.new_cache()
                read = backbone.hidden(torch.randn(rows, prompt + 1, backbone.width), cache=cache)
                known = rollout.Prompt(cache=cache, mask_BT=torch.ones(rows, prompt + 1), hidden_BD=read[:, -1])
                mask_BT, positions_BT = known.continued(latents - 1)
                given = torch.randn(rows, latents - 1, backbone.width)
                predicted = backbone.hidden(given, mask_BT=mask_BT, positions_BT=positions_BT, cache=known.fork())
            joined = torch.randn(rows, latents + 1 + answer, backbone.width, requires_grad=True)
            mask_BT, positions_BT = known.continued(joined.shape[1])
            said = backbone.hidden(joined, mask_BT=mask_BT, positions_BT=positions_BT, cache=known.fork())
            total = said.sum() + (predicted.sum() if learner.language_learns else 0)
            total.backward()
            backbone.model.zero_grad()

    return passes
