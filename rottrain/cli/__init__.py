"""The rottrain command: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rotdata.console import print_json, run_app, say

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="rottrain",
    help="Train, run and evaluate models that reason in the latents of rendered chains of thought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
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
Workers = Annotated[int, typer.Option(min=0, help="Processes that read and tokenise rows ahead.")]
Accumulate = Annotated[int | None, typer.Option(help="Batches averaged into one step.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate; the paper's is 2e-5.")]
Scheduler = Annotated[Literal["constant", "linear", "cosine"] | None, typer.Option(help="Learning rate over time.")]
WarmupSteps = Annotated[int | None, typer.Option(help="Steps over which the learning rate rises.")]
RolloutOption = Annotated[
    str | None,
    typer.Option(
        "--rollout",
        help="student, teacher, jacobi:N[-M] or :all, mixed, or phases: 'teacher, jacobi:0-3@0.4, student@0.9'.",
    ),
]
RecipeOption = Annotated[
    Literal["paper", "fast"], typer.Option("--recipe", help="Defaults: the paper's, or what works best here.")
]
TrainableOption = Annotated[
    Literal["head", "lora", "full", "lm-head"] | None,
    typer.Option("--trainable", help="What of the language model learns."),
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
ReportTo = Annotated[str, typer.Option(help="Tracker: tensorboard, wandb, mlflow, ... as transformers names them.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "mixed"] | None,
    typer.Option(help="Of the language model; mixed: float32 weights, bfloat16 passes."),
]
Recompute = Annotated[
    bool | None,
    typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Keep less, compute it twice."),
]
SaveSteps = Annotated[int | None, typer.Option(help="Write a state to resume from every so many steps.")]
LogSteps = Annotated[int | None, typer.Option(help="Log the losses every so many steps.")]
Resume = Annotated[str, typer.Option(help="auto, never, or a checkpoint-STEP folder.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")]
Limit = Annotated[int | None, typer.Option(help="Use no more than this many rows.")]
Checkpoint = Annotated[Path, typer.Argument(help="Folder of a finished checkpoint.")]
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

Temperature = Annotated[float, typer.Option(help="Of the sampled answer; 0 takes the likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Share of the probability that is sampled from.")]
MaxAnswerTokens = Annotated[int | None, typer.Option(help="Most tokens of an answer, 64 by default.")]


_CARRIED_OUT = "resume limit workers report_to dry_run json_"
"""Options of training commands that are no part of the recipe."""


@app.command()
def stage1(
    shards: Shards,
    out: Out,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = "fast",
    rollout: RolloutOption = None,
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    align_weight: Annotated[float | None, typer.Option(help="Weight of the alignment loss; the paper's is 10.")] = None,
    answer_weight: AnswerWeight = None,
    scaling: Annotated[
        Literal["none", "global", "dimension"] | None, typer.Option(help="Statistics that targets are scaled by.")
    ] = None,
    trainable: TrainableOption = None,
    budget: TrainBudget = None,
    fit: FitOption = None,
    glyph_weight: GlyphWeight = None,
    halt_weight: HaltWeight = None,
    input_noise: InputNoise = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    cache_hidden: Annotated[
        Path | None,
        typer.Option(help="Keep a frozen model's hidden states here: it reads true latents once, not every epoch."),
    ] = None,
    report_to: ReportTo = "none",
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002 -- a flag
) -> None:
    """Visual alignment: train the projection head to predict the latents of the rendered reasoning."""
    overrides = _given(locals(), f"shards out model config recipe {_CARRIED_OUT} cache_hidden")
    from rottrain.config import Stage1Config, load_yaml
    from rottrain.training.stages import Running, plan_stage1, run_stage1

    chosen = load_yaml(Stage1Config, config, recipe=recipe, **overrides)
    running = Running(resume=resume, limit=limit, workers=workers, cache_hidden=cache_hidden, report_to=report_to)
    if dry_run:
        _tell(plan_stage1(shards, model, chosen, running), as_json=json_)
    else:
        _report(run_stage1(shards, model, out, chosen, running), as_json=json_)


@app.command()
def stage2(
    shards: Shards,
    start: Annotated[Path, typer.Option("--from", help="Folder of the finished stage-1 checkpoint.")],
    out: Out,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = "fast",
    rollout: RolloutOption = None,
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    align_weight: Annotated[
        float | None, typer.Option(help="Weight of the alignment loss; the paper has none.")
    ] = None,
    answer_weight: AnswerWeight = None,
    trainable: TrainableOption = None,
    budget: TrainBudget = None,
    fit: FitOption = None,
    glyph_weight: GlyphWeight = None,
    halt_weight: HaltWeight = None,
    input_noise: InputNoise = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    report_to: ReportTo = "none",
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Latent fine-tuning: train a LoRA adapter to answer from the latents that the frozen head predicts."""
    overrides = _given(locals(), f"shards start out model config recipe {_CARRIED_OUT}")
    from rottrain.config import Stage2Config, load_yaml
    from rottrain.training.stages import Running, plan_stage2, run_stage2

    chosen = load_yaml(Stage2Config, config, recipe=recipe, **overrides)
    running = Running(resume=resume, limit=limit, workers=workers, report_to=report_to)
    if dry_run:
        _tell(plan_stage2(shards, model, start, chosen, running), as_json=json_)
    else:
        _report(run_stage2(shards, model, start, out, chosen, running), as_json=json_)


@app.command()
def sft(
    shards: Shards,
    mode: Annotated[
        Literal["cot", "no-cot"], typer.Option(help="Teach chain of thought and answer, or the answer alone.")
    ],
    out: Out,
    model: Model = "tiny",
    config: Config = None,
    recipe: RecipeOption = "fast",
    max_steps: MaxSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    group_by_length: GroupByLength = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    scheduler: Scheduler = None,
    warmup_steps: WarmupSteps = None,
    trainable: Annotated[
        Literal["lora", "full", "lm-head"] | None, typer.Option(help="What of the language model learns.")
    ] = None,
    validation_rows: ValidationRows = None,
    validation_steps: ValidationSteps = None,
    precision: Precision = None,
    gradient_checkpointing: Recompute = None,
    save_steps: SaveSteps = None,
    log_steps: LogSteps = None,
    resume: Resume = "auto",
    seed: Seed = None,
    limit: Limit = None,
    workers: Workers = 0,
    report_to: ReportTo = "none",
    dry_run: DryRun = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Fine-tuning in words on the same rows: the baselines that latents are compared with."""
    overrides = _given(locals(), f"shards out model config recipe {_CARRIED_OUT}")
    from rottrain.config import SftConfig, load_yaml
    from rottrain.training.stages import Running, plan_sft, run_sft

    chosen = load_yaml(SftConfig, config, recipe=recipe, **overrides)
    running = Running(resume=resume, limit=limit, workers=workers, report_to=report_to)
    if dry_run:
        _tell(plan_sft(shards, model, chosen, running), as_json=json_)
    else:
        _report(run_sft(shards, model, out, chosen, running), as_json=json_)


@app.command()
def smoke(
    model: Annotated[str, typer.Option("--model", help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")],
    rows: Annotated[int, typer.Option(help="Toy problems.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps of each stage.")] = 3,
    trainable: Annotated[
        Literal["head", "lora", "full", "lm-head"], typer.Option(help="What of the language model learns in stage 2.")
    ] = "lora",
    keep: Annotated[
        Path | None, typer.Option("--out", help="Keep what is made in this folder; by default it is removed.")
    ] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run the whole line on a few rows with a model on this machine: does it work, and a report to paste."""
    from rottrain.smoke import as_report, run_smoke

    found = run_smoke(model, rows=rows, steps=steps, trainable=trainable, keep=keep)
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        typer.echo(as_report(found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", help="New folder that transformers and peft load.")],
    model: BaseModel = None,
    base: Annotated[
        str | None, typer.Option(help="How others are to name the base model of an adapter; default its Hub id.")
    ] = None,
    weights: Annotated[
        Literal["adapter", "whole"] | None,
        typer.Option(help="An adapter, or the whole model; default an adapter where only that has learnt."),
    ] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Publish it as this model of the Hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Write a checkpoint as a folder that needs none of this package, with a model card and a script that uses it."""
    from rottrain.export import export as run

    exported = run(checkpoint, out, model=model, base=base, weights=weights, push=push, private=private)
    if json_:
        print_json(dataclasses.asdict(exported))
    else:
        where = f", {exported.url}" if exported.url else ""
        typer.echo(f"{exported.folder}: {exported.weights}, {exported.bytes / 1e6:.1f} MB{where}")


@app.command()
def generate(
    checkpoint: Checkpoint,
    questions: Annotated[
        list[str] | None, typer.Argument(help="Questions; without any, and without --file, stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file with one question a line, or JSON lines with a field question.")
    ] = None,
    budget: Budget = None,
    stop: Stop = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampled answers.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 16,
    max_answer_tokens: MaxAnswerTokens = None,
    model: BaseModel = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON line an answer, batch by batch.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Answer questions: think in latents, then say the answer. Answers are printed as each batch is done."""
    from rottrain.generation.decoding import Sampling
    from rottrain.generation.generate import MAX_ANSWER_TOKENS, RoT
    from rottrain.metrics import scoring

    asked = _questions(questions, file)
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    streamed = RoT.from_pretrained(checkpoint, model=model).stream(
        asked,
        budget=_budget(budget),
        stop=stop,
        sampling=sampling,
        batch_size=batch_size,
        max_answer_tokens=max_answer_tokens or MAX_ANSWER_TOKENS,
    )
    if json_:
        print_json([_as_json(made) for made in streamed])
        return
    for made in streamed:
        if jsonl:
            print_json(_as_json(made))
        else:
            typer.echo(scoring.extract(made.reply) or made.reply)
        sys.stdout.flush()


@app.command("eval")
def evaluate(
    checkpoint: Checkpoint,
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, Hub dataset ids (owner/name), or toy; or see --suite.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="grade-school: GSM8k-Aug, GSM-Hard, SVAMP, MultiArith; math: MATH-500. May be given twice."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the suites' files (gsm8k_test.jsonl, ...); by default the Hub.")
    ] = None,
    corpus: Annotated[str, typer.Option(help="Name of the sources' corpus; auto recognises it.")] = "auto",
    split: Annotated[str, typer.Option(help="Split of the sources.")] = "test",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Limit = None,
    modes: Annotated[str, typer.Option(help="Comma-separated: rot (latents), cot (words), no-cot (at once).")] = "rot",
    cot_checkpoint: Annotated[
        Path | None, typer.Option(help="Answers in mode cot: of `rottrain sft --mode cot`; else the base model does.")
    ] = None,
    no_cot_checkpoint: Annotated[
        Path | None, typer.Option(help="The same for mode no-cot, of `rottrain sft --mode no-cot`.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Latents a question, one number or several (0,8,32), 0 for none, or auto for what 95% of the training "
            "rows have at most; by default what it was trained on, or 32."
        ),
    ] = None,
    stop: Stop = None,
    seeds: Annotated[int, typer.Option(help="Runs, each with an own seed, sampled if there are several.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest tokens; by default 0 for one run, 1 for several.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability sampled from; by default 1 for one run, else 0.9.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 32,
    max_answer_tokens: MaxAnswerTokens = None,
    max_cot_tokens: Annotated[int | None, typer.Option(help="Most tokens in mode cot, 1024 by default.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, folder or Hub id: reasoning in words is counted in it, too.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            "--row-log",
            help="Write a line for every answer into this .parquet file (torchrun wants --row-log).",
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Put the paper's own figures beside.")] = False,  # noqa: FBT002
    model: BaseModel = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Accuracy, reasoning tokens and time a question; also under torchrun, which shares out the questions."""
    from rotdata.corpora.tokens import token_counter
    from rottrain.evaluation import row_log
    from rottrain.evaluation.distributed import joined
    from rottrain.evaluation.evaluate import Exam, examine, samplings
    from rottrain.evaluation.modes import Lineup
    from rottrain.evaluation.paper_tables import beside
    from rottrain.generation.generate import MAX_ANSWER_TOKENS, MAX_COT_TOKENS

    lineup = Lineup(
        checkpoint=checkpoint,
        modes=modes.split(","),
        budgets=[_budget(each) for each in budget.split(",")] if budget else [None],
        stop=stop,
        spoken={mode: folder for mode, folder in (("cot", cot_checkpoint), ("no-cot", no_cot_checkpoint)) if folder},
        model=model,
        max_answer_tokens=max_answer_tokens or MAX_ANSWER_TOKENS,
        max_cot_tokens=max_cot_tokens or MAX_COT_TOKENS,
    )
    runs = samplings(seeds, temperature=temperature, top_p=top_p)
    counter = token_counter(tokenizer) if tokenizer else None
    if log is not None:
        row_log.check_path(log)
    asked = _sources(sources or [], suite or [], data, corpus=corpus, split=split, config=config, limit=limit)
    exams = [
        Exam(corpus=each.corpus, rows=_rows(each), samplings=runs, batch_size=batch_size, counter=counter)
        for each in asked
    ]
    results: list[Any] = []
    entries: list[dict[str, Any]] = []
    with joined() as ranks:
        for candidate in lineup.candidates():
            for exam in exams:
                result, judged = examine(candidate, exam, ranks)
                results.append(beside(result) if paper else result)
                if log and ranks.is_main:  # after each, so that a run that is killed keeps what it has asked
                    entries += row_log.lines(result, judged)
                    row_log.write(log, entries)
    if not ranks.is_main:
        return
    if json_:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        typer.echo(_as_text(results, as_paper=bool(suite) or paper))


@app.command()
def trace(
    checkpoint: Checkpoint,
    shards: Annotated[
        str, typer.Option(help="Shards of the style and encoder it was trained on: a folder, or OWNER/NAME on the Hub.")
    ],
    question: Annotated[str | None, typer.Option(help="A question to think about.")] = None,
    row: Annotated[str | None, typer.Option(help="Id of a row of the shards: its question, with a reference.")] = None,
    corpus: Annotated[  # noqa: FBT002 -- a flag
        bool, typer.Option("--corpus", help="The shards' rows: how much of their thoughts can be read back.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="With --corpus, the last rows, as many.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page of a question's trace, an .html file.")] = None,
    index: Annotated[str | None, typer.Option(help="Shards to look nearest pictures up in, if not the same.")] = None,
    index_rows: Annotated[int | None, typer.Option(help="Look them up in the first rows alone, as many.")] = None,
    budget: Budget = None,
    stop: Stop = None,
    read_prompt: Annotated[
        str, typer.Option(help="What the base model is asked to do with the latents, as with a picture.")
    ] = "Transcribe.",
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 16,
    model: BaseModel = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Read a thought: as a page about one question, or as error rates over the rows of shards."""
    from rotdata.corpora import Row
    from rotdata.errors import UsageError
    from rottrain.analysis import pages, read_back_rates
    from rottrain.analysis.nearest import LatentIndex
    from rottrain.analysis.trace import as_text, find_row
    from rottrain.analysis.trace import trace as run
    from rottrain.analysis.true_latents import TrueLatents, check_shards, open_shards
    from rottrain.generation.generate import RoT

    if sum((question is not None, row is not None, corpus)) != 1:
        raise UsageError("trace one thing: a --question, a --row of the shards, or all of its rows with --corpus")
    if corpus and out is not None:
        raise UsageError("--out is the page of one question: give --question or --row, or leave it out with --corpus")
    rot = RoT.from_pretrained(checkpoint, model=model)
    opened = open_shards(shards)
    searched = opened if index is None else open_shards(index)
    for each in (opened, searched):
        check_shards(rot.config, each)
    pictures = LatentIndex(searched, limit=index_rows)
    spent = _budget(budget)
    if corpus:
        scores = read_back_rates.traceability(
            rot, opened, pictures, limit=limit, budget=spent, stop=stop, prompt=read_prompt, batch_size=batch_size
        )
        if json_:
            print_json(dataclasses.asdict(scores))
        else:
            typer.echo(read_back_rates.as_table(scores))
        return
    asked = Row("", question, "", "") if question is not None else find_row(opened, row or "")
    found = run(rot, asked, pictures, TrueLatents(rot, opened), budget=spent, stop=stop, prompt=read_prompt)
    if out is not None:
        pages.write_trace(out, found, rot.config)
        say(f"the page is {out}")
    if json_:
        print_json(dataclasses.asdict(found))
    elif out is None:
        typer.echo(as_text(found))


@app.command()
def calibrate(
    checkpoint: Checkpoint,
    shards: Annotated[
        str, typer.Option(help="Shards of the style and encoder it was trained on: a folder, or OWNER/NAME on the Hub.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="The last rows, as many.")] = None,
    budget: Budget = None,
    stop: Annotated[float, typer.Option(help="The probability whose stops are judged.")] = 0.5,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 32,
    model: BaseModel = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Does it know when it has said all? The probabilities of its halt against where the strips end."""
    from rottrain.analysis.calibration import as_table, halting
    from rottrain.analysis.true_latents import open_shards
    from rottrain.generation.generate import RoT

    rot = RoT.from_pretrained(checkpoint, model=model)
    found = halting(rot, open_shards(shards), limit=limit, budget=_budget(budget), stop=stop, batch_size=batch_size)
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        typer.echo(as_table(found))


@app.command()
def ablate(
    file: Annotated[
        Path, typer.Argument(help="YAML of the comparison (docs/ablate.md), or results.parquet: its tables once more.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for steps, results and tables; run again, it resumes.")],
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A value in place of the file's; YAML.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Steps run at a time, each with one thread if more than one.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the commands, and run none.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Compare arms: run a grid of commands that one YAML declares, equal steps once, and print the tables."""
    from rottrain.ablation import plan, tables
    from rottrain.ablation.runner import LOG, as_lines, run

    if file.suffix == ".parquet":
        out.mkdir(parents=True, exist_ok=True)
        section = tables.write_section(out, file)
        if json_:
            print_json({"results": str(file), "section": section})
        else:
            typer.echo(section, nl=False)
        return
    comparison = plan.load(file, given=plan.given_values(given or []), check=_check_words)
    if dry_run:
        lines = as_lines(comparison, out)
        if json_:
            print_json({"runs": len(comparison.runs), "steps": lines})
            return
        for line in lines:
            typer.echo(f"{'done   ' if line['finished'] else 'to do  '} {line['command']}")
        typer.echo(
            f"{len(comparison.runs)} runs take {len(lines)} steps, {sum(line['finished'] for line in lines)} done"
        )
        return
    outcome = run(comparison, out, jobs=jobs)
    if json_:
        print_json(dataclasses.asdict(outcome) | {"results": str(outcome.results)})
    else:
        typer.echo(outcome.section, nl=False)
    if outcome.failed:
        say(f"{len(outcome.failed)} of {outcome.steps} steps failed: the same command tries them again, {LOG} says why")
        raise typer.Exit(1)


@app.command()
def probe(
    checkpoint: Checkpoint,
    source: Annotated[str, typer.Argument(help="File, folder, Hub dataset id (owner/name), or toy.")],
    corpus: Annotated[str, typer.Option(help="Name of the corpus; auto recognises it.")] = "auto",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Limit = None,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Shards of the true latents; without, strips are drawn and encoded as the checkpoint's were."
        ),
    ] = None,
    budget: Budget = None,
    stop: Stop = None,
    seed: Annotated[int, typer.Option(help="Seed of noise, orders and folds.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 32,
    model: BaseModel = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into a .png, .svg or .pdf file.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Do the latents matter? Answer again after the latents were zeroed, shuffled, swapped, masked, or made true."""
    from rotdata import corpora
    from rottrain.analysis import plots
    from rottrain.analysis.probe import as_table
    from rottrain.analysis.probe import probe as run
    from rottrain.analysis.true_latents import TrueLatents, open_shards
    from rottrain.generation.generate import RoT

    asked = corpora.Source(location=source, corpus=corpus, split=split, config=config, limit=limit, need_cot=False)
    asked = corpora.resolve(asked)
    rows = _rows(asked)
    rot = RoT.from_pretrained(checkpoint, model=model)
    truths = TrueLatents(rot, None if shards is None else open_shards(shards))
    found = run(
        rot,
        rows,
        corpus=asked.corpus,
        truths=truths,
        budget=_budget(budget),
        stop=stop,
        batch_size=batch_size,
        seed=seed,
    )
    if plot is not None:
        plots.plot_probe(found, plot)
        say(f"the plot is in {plot}")
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        typer.echo(as_table(found))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    rows: Annotated[int, typer.Option(help="Training problems.")] = 8000,
    stage1_steps: Annotated[int, typer.Option(help="Steps of stage 1.")] = 400,
    stage2_steps: Annotated[int, typer.Option(help="Steps of stage 2.")] = 1000,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run the whole line on the embedded model and its toy corpus: corpus to evaluated checkpoint and report."""
    from rottrain.demo import run_demo
    from rottrain.evaluation.evaluate import Result, as_table

    results = run_demo(out, rows=rows, stage1_steps=stage1_steps, stage2_steps=stage2_steps)
    if json_:
        print_json(results)
    else:
        typer.echo(as_table([Result(**result) for result in results]))


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


def _given(arguments: dict[str, Any], others: str) -> dict[str, Any]:
    """The recipe's overrides among a command's arguments: all but `others`."""
    return {name: value for name, value in arguments.items() if name not in others.split()}


def _check_words(words: Sequence[str]) -> None:
    """Raise UsageError if the command that `words` name can't take the rest of them."""
    import typer.main

    from rotdata.cli import app as rotdata_app
    from rotdata.errors import UsageError

    program, name, *rest = words
    group: Any = typer.main.get_command({"rotdata": rotdata_app, "rottrain": app}[program])
    if name not in group.commands:
        raise UsageError(f"{program} has no command {name}: known are {', '.join(group.commands)}")
    try:
        group.commands[name].make_context(f"{program} {name}", rest)
    except typer.TyperException as error:
        raise UsageError(f"{program} {name} refuses: {error.format_message()}") from error


def _tell(plan: Any, *, as_json: bool) -> None:
    """Print what a run would do."""
    if as_json:
        print_json(dataclasses.asdict(plan))
        return
    memory = ", ".join(f"{name} {size:.2f}" for name, size in plan.memory_gib.items())
    typer.echo(
        f"{plan.steps} steps on {plan.rows} rows, {plan.validation_rows} held out\n"
        f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters learn\n"
        f"memory in GiB: {memory}\n"
        f"{plan.step_seconds:.2f} s a step, {plan.eta_seconds / 60:.1f} min in all"
    )


def _sources(
    locations: list[str],
    suites: list[str],
    data: Path | None,
    *,
    corpus: str,
    split: str,
    config: str | None,
    limit: int | None,
) -> list[Any]:
    """What is to be answered: the sources that are named, and the tests of suites."""
    from rotdata import corpora
    from rotdata.errors import UsageError
    from rottrain.evaluation.suites import find_tests
    from rottrain.training.trainer import is_main

    named = [
        corpora.Source(location=location, corpus=corpus, split=split, config=config, limit=limit, need_cot=False)
        for location in locations
    ]
    found, missing = find_tests(suites, data)
    for title in missing if is_main() else ():
        say(f"left out, since there is no file of it in {data}: {title}")
    if not named and not found:
        raise UsageError("there is nothing to evaluate on: name sources, or a --suite")
    return [corpora.resolve(each) for each in (*named, *(dataclasses.replace(each, limit=limit) for each in found))]


def _rows(asked: Any) -> list[Any]:
    """Rows of a corpus that can be graded; of the others it is said that they are left out."""
    from rotdata import corpora
    from rottrain.training.trainer import is_main

    rows = []
    for row in corpora.read(asked):
        if isinstance(row, corpora.Row):
            rows.append(row)
        elif is_main():
            say(f"left out, since it can't be graded: {row.id}: {row.reason}")
    return rows


def _as_text(results: Any, *, as_paper: bool) -> str:
    """Results for people: a table with everything, one as the paper has it where asked for, and what to know."""
    from rottrain.evaluation.evaluate import as_table, notes
    from rottrain.evaluation.paper_tables import paper_table

    tables = [as_table(results)]
    if as_paper and (table := paper_table(results)):
        tables.append(table)
    return "\n\n".join([*tables, notes(results)])


def _budget(text: str | None) -> Any:
    """A budget as `RoT.generate` takes it."""
    from rotdata.errors import UsageError

    try:
        return text if text in (None, "auto") else int(str(text))
    except ValueError:
        raise UsageError(f"a budget is a number of latents, or auto; got {text!r}") from None


def _as_json(made: Any) -> dict[str, Any]:
    """What was generated, as JSON for the user."""
    from rottrain.metrics import scoring

    return {
        "question": made.question,
        "answer": scoring.extract(made.reply),
        "reply": made.reply,
        "complete": made.complete,
        "reasoning_tokens": made.reasoning_tokens,
        "answer_tokens": made.answer_tokens,
        "seconds": round(made.seconds, 5),
        "timings": {name: round(seconds, 5) for name, seconds in vars(made.timings).items()},
    }


def _questions(questions: list[str] | None, file: Path | None) -> list[str]:
    from rotdata.errors import UsageError

    asked = list(questions or ())
    try:
        if file is not None:
            asked += _lines(file.read_text(encoding="utf-8-sig"), str(file))
        elif not asked:
            asked = _lines(sys.stdin.read(), "stdin")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file or 'stdin'} is not UTF-8: {error.reason} at byte {error.start}") from error
    asked = [question for question in asked if question.strip()]
    if not asked:
        raise UsageError("there is no question: give it as an argument, in --file, or on stdin")
    return asked


def _lines(text: str, source: str) -> list[str]:
    """Questions of a text: its lines; or, where the first one is a JSON object, the field `question` of each."""
    from rotdata.errors import UsageError

    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines or not isinstance(_parsed(lines[0][1]), dict):
        return [line.strip() for _, line in lines]
    questions = []
    for number, line in lines:
        record = _parsed(line)
        question = record.get("question") if isinstance(record, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise UsageError(f"{source}, line {number} is no JSON object with a text in its field question")
        questions.append(question)
    return questions


def _parsed(line: str) -> Any:
    """The JSON value of a line; None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _report(outcome: Any, *, as_json: bool) -> None:
    from rottrain.training.trainer import is_main, leave_group

    leave_group()
    if not is_main():
        return
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        typer.echo(f"{outcome.checkpoint}: {outcome.steps} steps, loss {outcome.loss:.4f}, {outcome.seconds:.1f} s")


if __name__ == "__main__":
    main()
