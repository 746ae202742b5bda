"""The rotdata command: one module a group of commands, which parse, call, print and import inside what is heavy."""

from __future__ import annotations

from rotdata.cli import embed, folders, hub, machine, render
from rotdata.console import new_app, run_app

app = new_app(
    "rotdata",
    "Chains of thought -> strips (pictures of one line of text) -> a frozen vision encoder's embeddings of them.",
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
