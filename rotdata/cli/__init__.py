"""The rotdata command: one module a group of commands, which parse, call, print and import inside what is heavy."""

from __future__ import annotations

from rotdata.cli import embed, folders, hub, machine, render, renumber
from rotdata.console import new_app, run_app

app = new_app(
    "rotdata",
    "Chains of thought -> strips (pictures of one line of text) -> a frozen vision encoder's embeddings of them.",
    {
        "render": render.render,
        "renumber": renumber.renumber,
        "embed": embed.embed,
        "verify": folders.verify,
        "repair": folders.repair,
        "push": hub.push,
        "pull": hub.pull,
        "merge": folders.merge,
        "export-webdataset": folders.export_webdataset,
        "preview": folders.preview,
        "stats": folders.stats,
        "fonts": machine.fonts,
        "plan": machine.plan,
        "doctor": machine.doctor,
    },
)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
