"""The rotdata command: one module a group of commands, which parse, call, print and import inside what is heavy."""

from __future__ import annotations

import typer

from rotdata.cli import embed, folders, hub, machine, render
from rotdata.console import run_app

app = typer.Typer(
    name="rotdata",
    help="Chains of thought -> strips (pictures of one line of text) -> a frozen vision encoder's embeddings of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(render.render)
app.command()(embed.embed)
app.command()(folders.verify)
app.command()(folders.repair)
app.command()(hub.push)
app.command()(hub.pull)
app.command()(folders.merge)
app.command()(folders.preview)
app.command()(folders.stats)
app.command()(machine.fonts)
app.command()(machine.plan)
app.command()(machine.doctor)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
