"""The rottrain command: one module a group of commands, which parse, call, print and import inside what is heavy."""

from __future__ import annotations

from rotdata.console import new_app, run_app
from rottrain.cli import analyse, compare, evaluate, generate, ship, train

app = new_app(
    "rottrain",
    "Train, run and evaluate models that reason in the latents of rendered chains of thought.",
)

app.command()(train.stage1)
app.command()(train.stage2)
app.command()(train.sft)
app.command()(ship.smoke)
app.command()(ship.export)
app.command()(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command()(analyse.trace)
app.command()(analyse.calibrate)
app.command()(compare.ablate)
app.command()(analyse.probe)
app.command()(ship.demo)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
