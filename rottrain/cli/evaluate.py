"""rottrain eval: accuracy, tokens and time on corpora."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from rotdata.cli.options import DatasetConfig, Json
from rotdata.console import print_json, say, tell
from rottrain.cli.inputs import as_budget
from rottrain.cli.options import BaseModel, Checkpoint, FeedbackOption, Limit, MaxAnswerTokens, Stop, Together


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
    config: DatasetConfig = None,
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
    feedback: FeedbackOption = None,
    seeds: Annotated[int, typer.Option(help="Runs, each with an own seed, sampled if there are several.")] = 1,
    votes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Samples of each question, whose majority is its answer.")
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 takes the likeliest tokens; by default 0 for one run, 1 for several and for votes."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability sampled from; by default 1 for one run, else 0.9.")
    ] = None,
    batch_size: Together = 32,
    max_answer_tokens: MaxAnswerTokens = None,
    max_cot_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens in mode cot, 1024 by default.")] = None,
    renumber: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Ask questions again with other numbers, so many times each, and compare (docs)."
        ),
    ] = None,
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
    from rotdata.output import check_output, is_stream
    from rottrain.evaluation import renumbered, row_log
    from rottrain.evaluation.distributed import joined
    from rottrain.evaluation.evaluate import Exam, examine, gradable_rows, samplings
    from rottrain.evaluation.modes import Lineup
    from rottrain.evaluation.paper_tables import beside
    from rottrain.generation.generate import MAX_ANSWER_TOKENS, MAX_COT_TOKENS

    lineup = Lineup(
        checkpoint=checkpoint,
        modes=modes.split(","),
        budgets=[as_budget(each) for each in budget.split(",")] if budget else [None],
        stop=stop,
        feedback=feedback,
        spoken={mode: folder for mode, folder in (("cot", cot_checkpoint), ("no-cot", no_cot_checkpoint)) if folder},
        model=model,
        max_answer_tokens=max_answer_tokens or MAX_ANSWER_TOKENS,
        max_cot_tokens=max_cot_tokens or MAX_COT_TOKENS,
    )
    runs = samplings(seeds, votes=votes, temperature=temperature, top_p=top_p)
    counter = token_counter(tokenizer) if tokenizer else None
    check_output(log, "--log", [".parquet"])
    asked = _sources(sources or [], suite or [], data, corpus=corpus, split=split, config=config, limit=limit)
    exams = [
        Exam(
            corpus=each.corpus,
            rows=gradable_rows(each),
            samplings=runs,
            votes=votes,
            batch_size=batch_size,
            counter=counter,
        )
        for each in asked
    ]
    drawn = _other_numbers(asked, renumber)
    results: list[Any] = []
    entries: list[dict[str, Any]] = []
    with joined() as ranks:
        for candidate in lineup.candidates():
            if votes > 1 and candidate.feedback == "latent" and ranks.is_main:
                say(f"with latent feedback nothing in a thought is sampled: {votes} votes answer after the same one")
            for place, exam in enumerate(exams):
                result, judged = examine(candidate, exam, ranks)
                logged = [(result, judged)]
                if others := drawn[place]:
                    compared, again, asked_again = renumbered.examine_again(candidate, exam, judged, others, ranks)
                    result = dataclasses.replace(result, renumbered=compared)
                    logged.append((again, asked_again))
                results.append(beside(result) if paper else result)
                if log and ranks.is_main:  # after each, so that a run that is killed keeps what it has asked
                    entries += [line for each in logged for line in row_log.lines(*each)]
                    if not is_stream(log):
                        row_log.write(log, entries)
    if log and ranks.is_main and is_stream(log):
        row_log.write(log, entries)
    if not ranks.is_main:
        return
    if json_:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        tell(_as_text(results, as_paper=bool(suite) or paper))


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


def _other_numbers(sources: list[Any], times: int | None) -> list[Any]:
    """The questions of each source with other numbers; None where they are not asked for or there are none."""
    from rotdata.errors import SourceError
    from rottrain.evaluation.renumbered import other_numbers
    from rottrain.training.trainer import is_main

    found: list[Any] = []
    failure: SourceError | None = None
    for source in sources if times else ():
        try:
            found.append(other_numbers(source, times or 1))
        except SourceError as error:
            failure = error
            found.append(None)
            if is_main():
                say(f"not asked with other numbers: {error}")
    if failure and not any(found):
        raise failure
    return found or [None] * len(sources)


def _as_text(results: Any, *, as_paper: bool) -> str:
    """Results for people: a table with everything, one as the paper has it where asked for, and what to know."""
    from rottrain.evaluation import renumbered
    from rottrain.evaluation.evaluate import as_table, notes
    from rottrain.evaluation.paper_tables import paper_table

    tables = [as_table(results)]
    if as_paper and (table := paper_table(results)):
        tables.append(table)
    if compared := renumbered.as_table(results):
        tables.append(compared)
    return "\n\n".join([*tables, notes(results)])
