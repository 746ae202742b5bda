"""`python -m rottrain.lm_eval`: the harness's own command, which knows the model `rot` as well.

The harness finds models in a list of its own and in no plugin, so whoever adds one has to start its command himself.
"""

from __future__ import annotations

from rotdata.console import run_app
from rotdata.extras import needing


def main() -> None:
    """Run the harness's command. Raises MissingExtra, and what the model raises."""
    with needing("lm-eval", "lm-evaluation-harness"):
        import lm_eval.models  # noqa: F401 -- the harness enters its own models only where none is entered yet
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry

    model_registry.register("rot", target="rottrain.lm_eval.model:RotModel")
    cli_evaluate()


if __name__ == "__main__":
    run_app(main, "rottrain")
