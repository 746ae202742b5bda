"""rotdata renumber: questions with other numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rotdata.cli.options import CorpusName, DatasetConfig, Json, Limit, Source, Split
from rotdata.console import print_json, say, tell

if TYPE_CHECKING:
    from rotdata.renumbering import Summary


def renumber(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="File for the rows, JSON lines of the source's own form.")],
    times: Annotated[int, typer.Option(min=1, help="Rows made of each row, each time with other numbers.")] = 1,
    hold_out: Annotated[
        str, typer.Option(help="Share of the wordings (10%) kept apart, in FILE-held-out.jsonl; by their hash.")
    ] = "0%",
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other numbers.")] = 0,
    chain: Annotated[
        Literal["own", "steps"],
        typer.Option(help="Chains as the source has them, or as steps <<...>> alone, as GSM8k-Aug does."),
    ] = "own",
    largest: Annotated[
        int | None, typer.Option(min=1, help="No drawn number and no result is larger.", show_default="no limit")
    ] = None,
    left_out: Annotated[
        Path | None, typer.Option(help="File for the ids of rows that are left out, each with the reason.")
    ] = None,
    corpus: CorpusName = "auto",
    split: Split = "train",
    config: DatasetConfig = None,
    limit: Limit = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Ask the questions of a corpus with other numbers, their chains of thought computed again.

    A row whose numbers can't be told apart without a doubt is left out and counted.
    """
    from rotdata import corpora, renumbering

    share = _share(hold_out)
    settings = renumbering.Renumbering(times=times, seed=seed, chain=chain, largest=largest, hold_out=share)
    asked = corpora.Source(location=source, corpus=corpus, split=split, config=config, limit=limit)
    apart = out.with_name(f"{out.stem}-held-out{out.suffix}") if share else None
    summary = renumbering.renumber(asked, out, settings, held_out=apart, left_out=left_out)
    if json_:
        files = {"out": str(out), "held_out": apart and str(apart)}
        print_json(dataclasses.asdict(summary) | {"files": files})
        return
    tell(
        f"{out}: {summary.rows_out} rows of {summary.rows_renumbered} of {summary.rows_in} rows "
        f"({summary.wordings} wordings), {summary.seconds:.1f} s"
    )
    if apart:
        tell(f"{apart}: {summary.rows_held_out} rows of wordings held out")
    _say_rest(summary, times)


def _say_rest(summary: Summary, times: int) -> None:
    if summary.rows_short:
        say(f"{summary.rows_short} rows have fewer than {times} other numbers that keep their results of their kind")
    if left_out := sum(summary.left_out.values()):
        say(f"{left_out} rows are left out ({left_out / summary.rows_in:.1%}):")
        for reason, count in summary.left_out.items():
            say(f"{count:>8}  {reason}")


def _share(text: str) -> float:
    """A share written as 10% or 0.1."""
    from rotdata.errors import UsageError

    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--hold-out takes a share such as 10% or 0.1, got {text[:80]!r}") from None
