"""The front door: what the commands do, as one call each, with the same defaults. docs/api.md shows it by example."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rotdata import corpora
from rotdata.errors import UsageError
from rottrain.config import DEFAULT_RECIPE, Feedback, Recipe, SftConfig, SftMode, Stage1Config, Stage2Config, load_yaml
from rottrain.evaluation import evaluate as evaluation
from rottrain.evaluation.evaluate import Result
from rottrain.evaluation.modes import Mode
from rottrain.generation.generate import Budget, RoT
from rottrain.training.stages import Outcome, Running, Shards, default_recipe, run_sft, run_stage1, run_stage2


def stage1(
    shards: Shards,
    out: str | Path,
    *,
    start: str | Path | None = None,
    model: str = "tiny",
    recipe: Recipe | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Train a projection head to predict the latents of the shards, as `rottrain stage1` does; the same call resumes.

    `shards` are a folder, a dataset of the Hub, or several of them, each with :WEIGHT after it if wanted. `start` is a
    checkpoint of `sft` or `stage1` to begin from, by default it is the base model. The recipe is by default `picture`
    for shards of `context="latent"`, else `fast`. `options` are keys of Stage1Config, which `config`, a YAML file, may
    hold too (max_steps, lr, budget, ...), and how the run is carried out: resume, limit, workers, report_to, in stage 1
    cache_hidden; `callbacks`, transformers.TrainerCallback objects; and `loss`, which is given the parts of the
    recipe's loss (not weighted, with `loss` itself among them) and the batch, and returns the number to be learnt from.

    Raises UsageError, ShardMismatch, OutputOccupied, TrainingError, Interrupted.
    """
    running, changes = _parted(options)
    chosen = load_yaml(Stage1Config, _file(config), recipe=recipe or default_recipe(shards), **changes)
    return run_stage1(shards, model, Path(out), chosen, running, start=None if start is None else Path(start))


def stage2(
    shards: Shards,
    start: str | Path,
    out: str | Path,
    *,
    model: str = "tiny",
    recipe: Recipe | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Train a model to answer from its latents, from the stage-1 checkpoint `start` on, as `rottrain stage2` does.

    Arguments and errors are those of `stage1`, with keys of Stage2Config; CheckpointError for a `start` that is none.
    """
    running, changes = _parted(options)
    chosen = load_yaml(Stage2Config, _file(config), recipe=recipe or default_recipe(shards), **changes)
    return run_stage2(shards, model, Path(start), Path(out), chosen, running)


def sft(
    shards: Shards,
    out: str | Path,
    *,
    mode: SftMode,
    model: str = "tiny",
    recipe: Recipe | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Fine-tune a model in words on the same rows, as `rottrain sft` does: what latents are compared with.

    Arguments and errors are those of `stage1`, with keys of SftConfig.
    """
    running, changes = _parted(options)
    chosen = load_yaml(SftConfig, _file(config), recipe=recipe or DEFAULT_RECIPE, mode=mode, **changes)
    return run_sft(shards, model, Path(out), chosen, running)


def evaluate(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    checkpoint: RoT | str | Path,
    source: str | Path | corpora.Source | corpora.Rows,
    *,
    mode: Mode = "rot",
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    votes: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    batch_size: int = 32,
    split: str = "test",
    **reading: Any,
) -> Result:
    """Accuracy, reasoning tokens and time a question on a corpus, as `rottrain eval` does.

    Answers are greedy, unless a temperature is given, or votes: then each question is sampled so often, and the
    majority's answer counts.

    Mode `rot` thinks in latents, `cot` in words and `no-cot` not at all, these two with the base model. `source` and
    `reading` are those of `rotdata.render_corpus`; rows without a chain of thought do, those without an answer are left
    out. Raises CheckpointError, SourceError, UsageError.
    """
    [sampling] = evaluation.samplings(1, votes=votes, temperature=temperature, top_p=top_p)
    if not isinstance(source, corpora.Source):
        reading = {"split": split, "need_cot": False} | reading
    elif split != "test":
        raise UsageError("a Source says itself which split is read: leave split out")
    with corpora.opened(source, **reading) as found:
        rows = evaluation.gradable_rows(found)
    rot = checkpoint if isinstance(checkpoint, RoT) else RoT.from_pretrained(checkpoint)
    result, _ = evaluation.evaluate(
        rot,
        rows,
        mode,
        corpus=found.corpus,
        budget=budget,
        stop=stop,
        feedback=feedback,
        sampling=sampling,
        votes=votes,
        batch_size=batch_size,
    )
    return result


def _parted(options: dict[str, Any]) -> tuple[Running, dict[str, Any]]:
    """How a run is carried out, and what is changed in its recipe."""
    names = {each.name for each in fields(Running)} & options.keys()
    running = {name: options[name] for name in names}
    if running.get("cache_hidden") is not None:
        running["cache_hidden"] = Path(running["cache_hidden"])
    return Running(**running), {name: value for name, value in options.items() if name not in names}


def _file(config: str | Path | None) -> Path | None:
    return None if config is None else Path(config)
