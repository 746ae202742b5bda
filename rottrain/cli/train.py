"""Commands that train: stage1, stage2, sft."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rotdata.cli.options import Json
from rotdata.console import print_json, tell
from rottrain.cli.options import (
    Accumulate,
    AnswerWeight,
    Attn,
    BatchSize,
    Compile,
    Config,
    DryRun,
    Epochs,
    FitOption,
    FourBit,
    GlyphWeight,
    GroupByLength,
    HaltWeight,
    HubPrivate,
    InputNoise,
    Liger,
    Limit,
    LogSteps,
    LoraAlpha,
    LoraDo,
    LoraDropout,
    LoraRank,
    LoraRs,
    LoraTargets,
    Lr,
    MaxSteps,
    Model,
    OptimizerOption,
    Out,
    Precision,
    PushToHub,
    RecipeOption,
    Recompute,
    ReportTo,
    Resume,
    RolloutOption,
    SaveSteps,
    Scheduler,
    Seed,
    Shards,
    TrainableOption,
    TrainBudget,
    TrainerFields,
    ValidationRows,
    ValidationSteps,
    WarmupSteps,
    Workers,
)
from rottrain.config import DEFAULT_RECIPE

_CARRIED_OUT = "resume limit workers report_to push_to_hub hub_private dry_run json_"
"""Options of training commands that are no part of the recipe."""
_LORA = "lora_"


def stage1(
    shards: Shards,
    out: Out,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Begin from a finished checkpoint of rottrain sft, words first, or of stage 1."),
    ] = None,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = None,
    rollout: RolloutOption = None,
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    optimizer: OptimizerOption = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    align_weight: Annotated[float | None, typer.Option(help="Weight of the alignment loss; the paper's is 10.")] = None,
    answer_weight: AnswerWeight = None,
    scaling: Annotated[
        Literal["none", "global", "dimension"] | None, typer.Option(help="Statistics that targets are scaled by.")
    ] = None,
    trainable: TrainableOption = None,
    lora_rank: LoraRank = None,
    lora_alpha: LoraAlpha = None,
    lora_dropout: LoraDropout = None,
    lora_targets: LoraTargets = None,
    lora_rslora: LoraRs = None,
    lora_dora: LoraDo = None,
    budget: TrainBudget = None,
    fit: FitOption = None,
    glyph_weight: GlyphWeight = None,
    halt_weight: HaltWeight = None,
    input_noise: InputNoise = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    load_in_4bit: FourBit = None,
    attn: Attn = None,
    torch_compile: Compile = None,
    liger: Liger = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    trainer: TrainerFields = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    cache_hidden: Annotated[
        Path | None,
        typer.Option(help="Keep a frozen model's hidden states here: it reads true latents once, not every epoch."),
    ] = None,
    report_to: ReportTo = "none",
    push_to_hub: PushToHub = None,
    hub_private: HubPrivate = False,  # noqa: FBT002 -- a flag
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002 -- a flag
) -> None:
    """Visual alignment: train the projection head to predict the latents of the rendered reasoning."""
    overrides = _given(locals(), f"shards out start model config recipe {_CARRIED_OUT} cache_hidden")
    from rottrain.config import Stage1Config, load_yaml
    from rottrain.training.stages import Running, default_recipe, plan_stage1, run_stage1

    chosen = load_yaml(Stage1Config, config, recipe=recipe or default_recipe(shards), **overrides)
    running = Running(
        resume=resume, limit=limit, workers=workers, cache_hidden=cache_hidden, report_to=report_to,
        push_to_hub=push_to_hub, hub_private=hub_private,
    )  # fmt: skip
    if dry_run:
        _tell(plan_stage1(shards, model, chosen, running, start=start), as_json=json_)
    else:
        _report(run_stage1(shards, model, out, chosen, running, start=start), as_json=json_)


def stage2(
    shards: Shards,
    start: Annotated[Path, typer.Option("--from", help="Folder of the finished stage-1 checkpoint.")],
    out: Out,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = None,
    rollout: RolloutOption = None,
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    optimizer: OptimizerOption = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    align_weight: Annotated[
        float | None, typer.Option(help="Weight of the alignment loss; the paper has none.")
    ] = None,
    answer_weight: AnswerWeight = None,
    trainable: TrainableOption = None,
    lora_rank: LoraRank = None,
    lora_alpha: LoraAlpha = None,
    lora_dropout: LoraDropout = None,
    lora_targets: LoraTargets = None,
    lora_rslora: LoraRs = None,
    lora_dora: LoraDo = None,
    budget: TrainBudget = None,
    fit: FitOption = None,
    glyph_weight: GlyphWeight = None,
    halt_weight: HaltWeight = None,
    input_noise: InputNoise = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    load_in_4bit: FourBit = None,
    attn: Attn = None,
    torch_compile: Compile = None,
    liger: Liger = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    trainer: TrainerFields = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    report_to: ReportTo = "none",
    push_to_hub: PushToHub = None,
    hub_private: HubPrivate = False,  # noqa: FBT002 -- a flag
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Latent fine-tuning: train a LoRA adapter to answer from the latents that the frozen head predicts."""
    overrides = _given(locals(), f"shards start out model config recipe {_CARRIED_OUT}")
    from rottrain.config import Stage2Config, load_yaml
    from rottrain.training.stages import Running, default_recipe, plan_stage2, run_stage2

    chosen = load_yaml(Stage2Config, config, recipe=recipe or default_recipe(shards), **overrides)
    running = Running(
        resume=resume, limit=limit, workers=workers, report_to=report_to, push_to_hub=push_to_hub,
        hub_private=hub_private,
    )  # fmt: skip
    if dry_run:
        _tell(plan_stage2(shards, model, start, chosen, running), as_json=json_)
    else:
        _report(run_stage2(shards, model, start, out, chosen, running), as_json=json_)


def sft(
    shards: Shards,
    mode: Annotated[
        Literal["cot", "no-cot"], typer.Option(help="Teach chain of thought and answer, or the answer alone.")
    ],
    out: Out,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = None,
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    optimizer: OptimizerOption = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    trainable: Annotated[
        Literal["lora", "full", "lm-head"] | None, typer.Option(help="What of the language model learns.")
    ] = None,
    lora_rank: LoraRank = None,
    lora_alpha: LoraAlpha = None,
    lora_dropout: LoraDropout = None,
    lora_targets: LoraTargets = None,
    lora_rslora: LoraRs = None,
    lora_dora: LoraDo = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    load_in_4bit: FourBit = None,
    attn: Attn = None,
    torch_compile: Compile = None,
    liger: Liger = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    trainer: TrainerFields = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    report_to: ReportTo = "none",
    push_to_hub: PushToHub = None,
    hub_private: HubPrivate = False,  # noqa: FBT002 -- a flag
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Fine-tuning in words on the same rows: the baselines that latents are compared with."""
    overrides = _given(locals(), f"shards out model config recipe {_CARRIED_OUT}")
    from rottrain.config import SftConfig, load_yaml
    from rottrain.training.stages import Running, plan_sft, run_sft

    chosen = load_yaml(SftConfig, config, recipe=recipe or DEFAULT_RECIPE, **overrides)
    running = Running(
        resume=resume, limit=limit, workers=workers, report_to=report_to, push_to_hub=push_to_hub,
        hub_private=hub_private,
    )  # fmt: skip
    if dry_run:
        _tell(plan_sft(shards, model, chosen, running), as_json=json_)
    else:
        _report(run_sft(shards, model, out, chosen, running), as_json=json_)


def _given(arguments: dict[str, Any], others: str) -> dict[str, Any]:
    """The recipe's overrides among a command's arguments: all but `others`."""
    given = {name: value for name, value in arguments.items() if name not in others.split()}
    if given["trainer"]:
        from rottrain.training.arguments import from_texts

        given["trainer"] = from_texts(given["trainer"])
    lora = {name.removeprefix(_LORA): given.pop(name) for name in list(given) if name.startswith(_LORA)}
    if lora["targets"]:
        lora["targets"] = [name.strip() for names in lora["targets"] for name in names.split(",")]
    return given | {
        "trainer": given["trainer"] or None,
        "lora": {name: value for name, value in lora.items() if value not in (None, [])} or None,
    }


def _tell(plan: Any, *, as_json: bool) -> None:
    """Print what a run would do."""
    if as_json:
        print_json(dataclasses.asdict(plan))
        return
    memory = ", ".join(f"{name} {size:.2f}" for name, size in plan.memory_gib.items())
    tell(
        f"{plan.steps} steps on {plan.rows} rows, {plan.validation_rows} held out\n"
        f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters learn\n"
        f"memory in GiB: {memory}\n"
        f"{plan.step_seconds:.2f} s a step, {plan.eta_seconds / 60:.1f} min in all"
    )


def _report(outcome: Any, *, as_json: bool) -> None:
    from rottrain.training.trainer import is_main, leave_group

    leave_group()
    if not is_main():
        return
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        there = "" if outcome.url is None else f", {outcome.url}"
        tell(f"{outcome.checkpoint}: {outcome.steps} steps, loss {outcome.loss:.4f}, {outcome.seconds:.1f} s{there}")
