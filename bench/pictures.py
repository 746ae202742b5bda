"""feedback: thinking with picture feedback against latent feedback; train-vs-words: learning it against learning words.

Both on the embedded model and toy problems of six to eight steps, in cells of 6, each latent encoded by itself.
feedback: a checkpoint of 120 steps answers question by question, each with as many latents as its own thought has, fed
back as pictures of what is read in them or as predicted; pictures that its book lacks are drawn in the warm-up.
train-vs-words: rows of batches of 16, from shards to the optimizer's step: stage 2 of the recipe `picture`, on latents,
against fine-tuning in words (`sft --mode cot`) on the same rows. On a CPU seconds are the processor's, on one thread.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

import rotdata
import rottrain
from bench.common import compare
from bench.models import tiny
from rotdata.corpora.toy import toy_problems
from rotdata.shards import EmbeddingShards
from rottrain.config import Feedback, SftConfig, Stage2Config, load_yaml
from rottrain.data.batches import Collator
from rottrain.data.rows import RowOrder, Selection
from rottrain.data.training_set import Supply
from rottrain.model.head import ProjectionHead
from rottrain.model.precision import load_backbone, precision_of
from rottrain.training.objective import Learner
from rottrain.training.sft import TextCollator, TextLearner, TextRows

PROBLEMS = "toy:6-8"
ROWS, BATCH, STEPS = 512, 16, 8
LEARNT_STEPS, QUESTIONS = 120, 8


def figures() -> Iterator[dict[str, Any]]:
    """The feedback figure."""
    with _shards() as shards, _one_thread() as clock:
        learnt = shards.parent / "stage1"
        rottrain.stage1(shards, learnt, recipe="picture", max_steps=LEARNT_STEPS, lr=1.4e-3, batch_size=BATCH)
        rot = rottrain.RoT.from_pretrained(learnt)
        questions = [problem.question for problem in islice(toy_problems("test", difficulty=(6, 8)), QUESTIONS)]
        spent = [made.reasoning_tokens for made in rot.generate(questions)]

        def think(feedback: Feedback) -> Callable[[], None]:
            def answers() -> None:
                for question, count in zip(questions, spent, strict=True):
                    [made] = rot.generate([question], budget=count, feedback=feedback, max_answer_tokens=1)
                    assert made.reasoning_tokens == count

            return answers

        pictures, latents = think("picture"), think("latent")
        figure = compare("feedback", pictures, latents, units=QUESTIONS, unit="questions/s, batch 1", clock=clock)
        yield figure | {"latents": sum(spent)}


def training_figures() -> Iterator[dict[str, Any]]:
    """The train-vs-words figure."""
    with _shards() as shards, _one_thread() as clock:
        selections = [Selection.of(EmbeddingShards(shards))]
        pictures, words = _pictures(selections), _words(selections)
        yield compare(
            "train-vs-words",
            _training(*pictures, selections),
            _training(*words, selections),
            units=BATCH * STEPS,
            unit="rows/s",
            clock=clock,
            precision=precision_of(words[0].backbone),
        )


@contextmanager
def _one_thread() -> Iterator[Callable[[], float]]:
    """One thread, and its clock; where there is a GPU, the wall's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield time.perf_counter if torch.cuda.is_available() else time.process_time
    torch.set_num_threads(threads)


@contextmanager
def _shards() -> Iterator[Path]:
    """Shards of problems whose latents are pictures of their own, in a folder that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        style = rotdata.StripStyle(cells=6, align_steps=True)
        rotdata.render_corpus(PROBLEMS, out=folder / "strips", style=style, corpus="toy", limit=ROWS)
        rotdata.embed(folder / "strips", folder / "shards", model="tiny", context="latent")
        yield folder / "shards"
    finally:
        shutil.rmtree(folder)


def _pictures(selections: Sequence[Selection]) -> tuple[Learner, Dataset[Any], Collator]:
    """What stage 2 of the recipe trains, and on what."""
    torch.manual_seed(0)
    backbone = load_backbone(tiny(), "auto", trainable="full")
    width = selections[0].shards.width
    head = ProjectionHead(width_in=backbone.width, width_out=width, hidden=None, activation="swiglu")
    supply = Supply.of(selections, backbone, load_yaml(Stage2Config, None, recipe="picture"))
    head.to(backbone.device).set_scale(*supply.scale(per_dimension=True))
    backbone.train_language(head_only=False)
    learner = Learner(backbone, head, load_yaml(Stage2Config, None, recipe="picture"), supply.probe(head))
    return learner, supply.rows, Collator(backbone.pad_id)


def _words(selections: Sequence[Selection]) -> tuple[TextLearner, Dataset[Any], TextCollator]:
    """What `rottrain sft --mode cot` trains, and on what."""
    backbone = load_backbone(tiny(), "auto", trainable="full")
    backbone.train_language(head_only=False)
    learner = TextLearner(backbone, SftConfig(mode="cot"))
    return learner, TextRows(selections, backbone, "cot"), TextCollator(backbone.pad_id)


def _training(
    learner: Learner | TextLearner,
    rows: Dataset[Any],
    collate: Callable[[Sequence[Any]], Any],
    selections: Sequence[Selection],
) -> Callable[[], None]:
    """Steps on the first batches of an epoch, the same rows at each call."""
    learner.train()
    device = learner.backbone.device
    loader = DataLoader(rows, batch_size=BATCH, sampler=RowOrder(selections, seed=0), collate_fn=collate)
    optimizer = torch.optim.AdamW(learner.trained().values(), lr=1e-6)

    def train() -> None:
        for batch in islice(loader, STEPS):
            batch.pop("ids")
            learner(**{name: value.to(device) for name, value in batch.items()})["loss"].backward()
            torch.nn.utils.clip_grad_norm_(learner.trained().values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return train
