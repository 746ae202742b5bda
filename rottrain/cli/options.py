"""Options that several commands of rottrain take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rotdata.cli.options import MOST_PROCESSES

Shards = Annotated[
    list[str],
    typer.Option(
        "--shards",
        help="Folder that rotdata embed made, or OWNER/NAME[@REVISION][/CONFIG[/SPLIT]] on the Hub. Several are mixed; "
        ":WEIGHT after one is how often an epoch takes each of its rows, 1 by default.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="tiny, qwen3-vl[-2b|-4b|-8b], qwen3.5, qwen2.5-vl, llava-1.6, a model's folder or a Hub id."
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder of the checkpoint; a stopped run of the same thing is resumed.")
]
Config = Annotated[Path | None, typer.Option("--config", help="YAML with recipe keys; unknown keys are refused.")]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after so many steps.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the shards.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows a step and device.")]
GroupByLength = Annotated[
    bool | None, typer.Option("--group-by-length/--shuffle", help="Rows of similar length share a batch.")
]
Workers = Annotated[int, typer.Option(min=0, max=MOST_PROCESSES, help="Processes that read and tokenise rows ahead.")]
Accumulate = Annotated[int | None, typer.Option(help="Batches averaged into one step.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate; the paper's is 2e-5.")]
OptimizerOption = Annotated[
    Literal["adamw", "muon"] | None, typer.Option(help="muon takes matrices, and leaves the rest to adamw.")
]
Scheduler = Annotated[Literal["constant", "linear", "cosine"] | None, typer.Option(help="Learning rate over time.")]
WarmupSteps = Annotated[
    float | None, typer.Option(help="Steps over which the learning rate rises; below 1, their share of the run.")
]
RolloutOption = Annotated[
    str | None,
    typer.Option(
        "--rollout",
        help="student, teacher, jacobi:N[-M] or :all, mixed, or phases: 'teacher, jacobi:0-3@0.4, student@0.9'.",
    ),
]
RecipeOption = Annotated[
    Literal["paper", "fast", "picture"] | None,
    typer.Option(
        "--recipe",
        help="Defaults: the paper's, what works best here, or picture feedback; without it picture for shards of "
        "--context latent, fast for others.",
    ),
]
TrainableOption = Annotated[
    Literal["head", "lora", "full", "lm-head"] | None,
    typer.Option("--trainable", help="What of the language model learns."),
]
LoraRank = Annotated[int | None, typer.Option(help="Rank of the LoRA adapter; 16 by default.")]
LoraAlpha = Annotated[int | None, typer.Option(help="Its alpha; 32 by default.")]
LoraDropout = Annotated[float | None, typer.Option(help="Its dropout; 0.05 by default.")]
LoraTargets = Annotated[
    list[str] | None,
    typer.Option(help="Projections that it adapts, by name: q_proj,v_proj; by default all of attention and MLP."),
]
LoraRs = Annotated[bool | None, typer.Option("--rslora/--no-rslora", help="Divide alpha by the root of the rank.")]
LoraDo = Annotated[bool | None, typer.Option("--dora/--no-dora", help="Let weights' magnitudes learn apart.")]
Attn = Annotated[
    Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] | None,
    typer.Option(help="Attention; auto: eager on a CPU, sdpa on a GPU."),
]
Compile = Annotated[bool | None, typer.Option("--torch-compile/--no-torch-compile", help="Compile the layers.")]
Liger = Annotated[bool | None, typer.Option("--liger/--no-liger", help="Use Liger kernels, which must be installed.")]
FourBit = Annotated[
    bool | None,
    typer.Option("--load-in-4bit/--no-load-in-4bit", help="Hold the frozen model in 4 bits; needs bitsandbytes."),
]
TrainBudget = Annotated[int | None, typer.Option("--budget", help="Latents that every row is brought to.")]
FitOption = Annotated[
    Literal["pad", "truncate", "resample"] | None, typer.Option("--fit", help="How rows are brought to the budget.")
]
GlyphWeight = Annotated[float | None, typer.Option(help="Weight of the glyph probe's loss.")]
HaltWeight = Annotated[float | None, typer.Option(help="Weight of the halt loss, for a dynamic stop.")]
InputNoise = Annotated[float | None, typer.Option(help="Most noise on the latents that are read, in deviations.")]
AnswerWeight = Annotated[float | None, typer.Option(help="Weight of the answer's cross-entropy.")]
ValidationRows = Annotated[int | None, typer.Option(help="Rows held out and validated on.")]
ValidationSteps = Annotated[int | None, typer.Option(help="Validate every so many steps; default ten times.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say parameters, memory, steps and time; train nothing.")]
ReportTo = Annotated[
    str, typer.Option(help="Trackers: tensorboard, wandb, mlflow, trackio, ...; several with commas between them.")
]
PushToHub = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", help="Keep states, and at the end the checkpoint, as this model of the Hub."),
]
HubPrivate = Annotated[bool, typer.Option("--hub-private", help="Make a new model private.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "mixed"] | None,
    typer.Option(help="Of the language model; mixed: float32 weights, bfloat16 passes."),
]
Recompute = Annotated[
    bool | None,
    typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Keep less, compute it twice."),
]
TrainerFields = Annotated[
    list[str] | None,
    typer.Option(
        "--trainer",
        help="NAME=VALUE, a field of transformers.TrainingArguments, as in optim=adafactor; may be repeated.",
    ),
]
SaveSteps = Annotated[int | None, typer.Option(help="Write a state to resume from every so many steps.")]
LogSteps = Annotated[int | None, typer.Option(help="Log the losses every so many steps.")]
Resume = Annotated[str, typer.Option(help="auto, never, or a checkpoint-STEP folder.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")]
Limit = Annotated[int | None, typer.Option(help="Use no more than this many rows.")]
MatchingShards = Annotated[
    str,
    typer.Option(
        "--shards",
        help="Shards of the style and encoder it was trained on: a folder, or OWNER/NAME on the Hub.",
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(help="Folder of a finished checkpoint, or of an export; or OWNER/NAME on the Hub."),
]
BaseModel = Annotated[str | None, typer.Option("--model", help="Base model, if it lies elsewhere than at training.")]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Latents spent on each question: a number, 0 for none, or auto for what 95% of the training rows have at "
        "most; by default what it was trained on, or 32."
    ),
]
Stop = Annotated[
    float | None, typer.Option(help="Stop at the first latent that is the last with this probability; budget is a cap.")
]
FeedbackOption = Annotated[
    Literal["picture", "latent"] | None,
    typer.Option(
        "--feedback",
        help="What the model goes on from: the picture of what was read in a latent, or the latent as predicted; by "
        "default as it was trained.",
    ),
]
Confidence = Annotated[
    float, typer.Option(help="Below this probability of its least certain character, a reading is marked as unsure.")
]
Temperature = Annotated[float, typer.Option(help="Of the sampled answer; 0 takes the likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Share of the probability that is sampled from.")]
Together = Annotated[int, typer.Option("--batch-size", min=1, help="Questions answered together.")]
MaxAnswerTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer, 64 by default.")]
