"""Commands that look into thoughts: trace, calibrate, probe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from rotdata.cli.options import CorpusName, DatasetConfig, Json, Split
from rotdata.console import print_json, say, tell
from rottrain.cli.inputs import as_budget, tell_cost
from rottrain.cli.options import (
    BaseModel,
    Budget,
    Checkpoint,
    Confidence,
    FeedbackOption,
    Limit,
    MatchingShards,
    Stop,
    Together,
)


def trace(
    checkpoint: Checkpoint,
    shards: MatchingShards,
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
    feedback: FeedbackOption = None,
    confidence: Confidence = 0.8,
    read_prompt: Annotated[
        str, typer.Option(help="What the base model is asked to do with the latents, as with a picture.")
    ] = "Transcribe.",
    batch_size: Together = 16,
    model: BaseModel = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Read a thought: as a page about one question, or as error rates over the rows of shards."""
    from rotdata.corpora import Row
    from rotdata.errors import UsageError
    from rotdata.output import check_output
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
    check_output(out, "--out")
    spent = as_budget(budget)
    rot = RoT.from_pretrained(checkpoint, model=model)
    tell_cost(rot, spent, batch_size if corpus else 1)
    opened = open_shards(shards)
    searched = opened if index is None else open_shards(index)
    for each in (opened, searched):
        check_shards(rot.config, each)
    pictures = LatentIndex(searched, limit=index_rows)
    if corpus:
        scores = read_back_rates.traceability(
            rot,
            opened,
            pictures,
            limit=limit,
            budget=spent,
            stop=stop,
            feedback=feedback,
            prompt=read_prompt,
            batch_size=batch_size,
        )
        if json_:
            print_json(dataclasses.asdict(scores))
        else:
            tell(read_back_rates.as_table(scores))
        return
    asked = Row("", question, "", "") if question is not None else find_row(opened, row or "")
    truths = TrueLatents(rot, opened)
    found = run(
        rot,
        asked,
        pictures,
        truths,
        budget=spent,
        stop=stop,
        feedback=feedback,
        confidence=confidence,
        prompt=read_prompt,
    )
    if out is not None:
        pages.write_trace(out, found, rot.config)
        say(f"the page is {out}")
    if json_:
        print_json(dataclasses.asdict(found))
    elif out is None:
        tell(as_text(found))


def calibrate(
    checkpoint: Checkpoint,
    shards: MatchingShards,
    limit: Annotated[int | None, typer.Option(min=1, help="The last rows, as many.")] = None,
    budget: Budget = None,
    stop: Annotated[float, typer.Option(help="The probability whose stops are judged.")] = 0.5,
    feedback: FeedbackOption = None,
    batch_size: Together = 32,
    model: BaseModel = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Does it know when it has said all? The probabilities of its halt against where the strips end."""
    from rottrain.analysis.calibration import as_table, halting
    from rottrain.analysis.true_latents import open_shards
    from rottrain.generation.generate import RoT

    spent = as_budget(budget)
    rot = RoT.from_pretrained(checkpoint, model=model)
    tell_cost(rot, spent, batch_size)
    found = halting(
        rot,
        open_shards(shards),
        limit=limit,
        budget=spent,
        stop=stop,
        feedback=feedback,
        batch_size=batch_size,
    )
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        tell(as_table(found))


def probe(
    checkpoint: Checkpoint,
    source: Annotated[str, typer.Argument(help="File, folder, Hub dataset id (owner/name), or toy.")],
    corpus: CorpusName = "auto",
    split: Split = "test",
    config: DatasetConfig = None,
    limit: Limit = None,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Shards of the true latents; without, strips are drawn and encoded as the checkpoint's were."
        ),
    ] = None,
    budget: Budget = None,
    stop: Stop = None,
    feedback: FeedbackOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise, orders and folds.")] = 0,
    batch_size: Together = 32,
    model: BaseModel = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into a .png, .svg or .pdf file.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Do the latents matter? Answer again after the latents were zeroed, shuffled, swapped, masked, or made true."""
    from rotdata import corpora
    from rotdata.output import PLOTS, check_output
    from rottrain.analysis import plots
    from rottrain.analysis.probe import as_table
    from rottrain.analysis.probe import probe as run
    from rottrain.analysis.true_latents import TrueLatents, open_shards
    from rottrain.evaluation.evaluate import gradable_rows
    from rottrain.generation.generate import RoT

    check_output(plot, "--plot", PLOTS)
    asked = corpora.Source(location=source, corpus=corpus, split=split, config=config, limit=limit, need_cot=False)
    asked = corpora.resolve(asked)
    spent = as_budget(budget)
    rows = gradable_rows(asked)
    rot = RoT.from_pretrained(checkpoint, model=model)
    tell_cost(rot, spent, batch_size)
    truths = TrueLatents(rot, None if shards is None else open_shards(shards))
    found = run(
        rot,
        rows,
        corpus=asked.corpus,
        truths=truths,
        budget=spent,
        stop=stop,
        feedback=feedback,
        batch_size=batch_size,
        seed=seed,
    )
    if plot is not None:
        plots.plot_probe(found, plot)
        say(f"the plot is in {plot}")
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        tell(as_table(found))
