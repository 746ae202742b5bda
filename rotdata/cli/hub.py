"""Commands that publish and fetch: push, pull."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from rotdata.cli.options import Json, Out, Overwrite
from rotdata.cli.summaries import finish
from rotdata.console import print_json, say, tell


def push(
    folder: Annotated[Path, typer.Argument(help="Finished folder of strips or embeddings.")],
    repo: Annotated[str, typer.Argument(help="Dataset of the Hub, OWNER/NAME.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="Name of the configuration; one that is given replaces what is there.",
            show_default="CORPUS-MODEL-FONT-SIZEpx",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card, and write nothing.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Publish a folder of shards as a dataset of the Hub, with a card; the same command resumes."""
    from rotdata import hub

    pushed = hub.push(folder, repo, config=config, private=private, dry_run=dry_run)
    if json_:
        print_json(dataclasses.asdict(pushed))
        return
    if dry_run:
        tell(pushed.card)
    verb = "would be uploaded" if dry_run else "uploaded"
    say(
        f"{pushed.url}: {pushed.config}, split {pushed.split}: {pushed.files_uploaded} files, "
        f"{pushed.bytes_uploaded / 1e6:.1f} MB {verb}, {pushed.files_unchanged} there already"
    )


def pull(
    repo: Annotated[str, typer.Argument(help="Dataset of the Hub, OWNER/NAME.")],
    out: Out,
    config: Annotated[str | None, typer.Option(help="Configuration, where the dataset has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, where the configuration has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    overwrite: Overwrite = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Fetch a published folder, byte for byte, and verify it."""
    from rotdata import hub
    from rotdata.runs import pipeline

    manifest = hub.pull(repo, out, config=config, split=split, revision=revision, overwrite=overwrite)
    finish(pipeline.summarise(manifest), out, max_rejects=1, as_json=json_)
