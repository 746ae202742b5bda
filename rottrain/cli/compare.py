"""rottrain ablate: arms of a comparison, declared in one YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotdata.cli.options import MOST_PROCESSES, Json
from rotdata.console import print_json, say, tell

if TYPE_CHECKING:
    from collections.abc import Sequence


def ablate(
    file: Annotated[
        Path, typer.Argument(help="YAML of the comparison (docs/ablate.md), or results.parquet: its tables once more.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for steps, results and tables; run again, it resumes.")],
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A value in place of the file's; YAML.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(max=MOST_PROCESSES, help="Steps run at a time, each with one thread if more than one.")
    ] = 1,
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
            tell(section, end="")
        return
    comparison = plan.load(file, given=plan.given_values(given or []), check=check_words)
    if dry_run:
        lines = as_lines(comparison, out)
        if json_:
            print_json({"runs": len(comparison.runs), "steps": lines})
            return
        for line in lines:
            tell(f"{'done   ' if line['finished'] else 'to do  '} {line['command']}")
        tell(f"{len(comparison.runs)} runs take {len(lines)} steps, {sum(line['finished'] for line in lines)} done")
        return
    outcome = run(comparison, out, jobs=jobs)
    if json_:
        print_json(dataclasses.asdict(outcome) | {"results": str(outcome.results)})
    else:
        tell(outcome.section, end="")
    if outcome.failed:
        say(f"{len(outcome.failed)} of {outcome.steps} steps failed: the same command tries them again, {LOG} says why")
        raise typer.Exit(1)


def check_words(words: Sequence[str]) -> None:
    """Raise UsageError if the command that `words` name can't take the rest of them."""
    import typer.main

    from rotdata.cli import app as rotdata_app
    from rotdata.errors import UsageError
    from rottrain.cli import app

    program, name, *rest = words
    group: Any = typer.main.get_command({"rotdata": rotdata_app, "rottrain": app}[program])
    if name not in group.commands:
        raise UsageError(f"{program} has no command {name}: known are {', '.join(group.commands)}")
    try:
        group.commands[name].make_context(f"{program} {name}", rest)
    except typer.TyperException as error:
        raise UsageError(f"{program} {name} refuses: {error.format_message()}") from error
