"""What commands that make or would make shards say about them."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rotdata.console import EXIT_REJECTS, print_json, say, tell

if TYPE_CHECKING:
    from rotdata.shards import Manifest

_LISTED = 20  # characters named one by one


def finish(summary: Any, out: Path, max_rejects: float, *, as_json: bool, more: dict[str, Any] | None = None) -> None:
    """Print a summary; exit code 3 if more rows were rejected than `max_rejects` allows."""
    from rotdata.shards import rejects_file

    if as_json:
        print_json(dataclasses.asdict(summary) | (more or {}))
    else:
        tell(
            f"{out}: {summary.rows_out} of {summary.rows_in} rows, {summary.latents} latents in "
            f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
        )
    _say_survey(dataclasses.asdict(summary))
    for count, what in (
        (summary.rows_truncated, "rows show the beginning of their text only"),
        (summary.rows_added, "rows were added by splitting long ones"),
    ):
        if count:
            say(f"{count} {what}")
    if summary.rows_rejected:
        share = summary.rows_rejected / summary.rows_in
        say(f"{summary.rows_rejected} rows rejected ({share:.1%}): reasons in {rejects_file(out)}")
        if share > max_rejects:
            raise typer.Exit(EXIT_REJECTS)


def print_plan(manifest: Manifest, out: Path, *, as_json: bool) -> None:
    """What a run would make."""
    plan = {
        "corpus": manifest.corpus,
        "split": manifest.split,
        "rows_in": manifest.plan.rows_in,
        "shards": manifest.plan.num_shards,
        **manifest.survey,
    }
    if as_json:
        print_json(plan)
        return
    tell(f"{out} would hold {manifest.plan.num_shards} shards of {manifest.plan.rows_in} rows of {manifest.name}")
    _say_survey(manifest.survey)


def _say_survey(survey: dict[str, Any]) -> None:
    """What a corpus holds that one may not expect."""
    for name, title in (("missing", "in no font"), ("substituted", "drawn by a fallback font")):
        found: dict[str, int] = survey[name]
        if found:
            say(f"{len(found)} characters {title}: {counted(found)}")
    if survey["duplicates"]:
        say(f"{survey['duplicates']} rows repeat an earlier one; they are kept")
    if survey["duplicate_ids"]:
        say(f"{survey['duplicate_ids']} rows have the id of an earlier one; they are kept")


def counted(found: dict[str, int]) -> str:
    """Characters with their counts, the most frequent first."""
    most = sorted(found, key=lambda character: -found[character])
    listed = ", ".join(f"{_name(character)} ({found[character]})" for character in most[:_LISTED])
    return listed + (f" and {len(most) - _LISTED} more" if len(most) > _LISTED else "")


def _name(character: str) -> str:
    """A character so that a terminal shows it safely."""
    shown = f"{character} " if character.isprintable() and not unicodedata.combining(character) else ""
    return f"{shown}U+{ord(character):04X}"
