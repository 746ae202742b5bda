"""The rottrain command: one module a group of commands, which parse, call, print and import inside what is heavy."""

from __future__ import annotations

from rotdata.console import new_app, run_app
from rottrain.cli import analyse, compare, evaluate, generate, serve, ship, train

app = new_app(
    "rottrain",
    "Train, run and evaluate models that reason in the latents of rendered chains of thought.",
    {
        "stage1": train.stage1,
        "stage2": train.stage2,
        "sft": train.sft,
        "smoke": ship.smoke,
        "verify": ship.verify,
        "export": ship.export,
        "generate": generate.generate,
        "serve": serve.serve,
        "eval": evaluate.evaluate,
        "trace": analyse.trace,
        "calibrate": analyse.calibrate,
        "ablate": compare.ablate,
        "probe": analyse.probe,
        "demo": ship.demo,
    },
)


def main() -> None:
    """Entry point of the console script."""
    run_app(app, "rottrain")
