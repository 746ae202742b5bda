"""rottrain: trains a vision-language model to think in the embeddings of its own rendered chain of thought.

What `__all__` lists is public and stable; docs/api.md shows it by example. Importing this loads none of it.
"""

from typing import TYPE_CHECKING

from rotdata.lazy import lazily
from rotdata.version import __version__

if TYPE_CHECKING:
    from rottrain.api import evaluate, sft, stage1, stage2
    from rottrain.config import SftConfig, Stage1Config, Stage2Config
    from rottrain.evaluation.evaluate import Result
    from rottrain.generation.generate import Generation, RoT
    from rottrain.training.stages import Outcome
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Generation": "rottrain.generation.generate",
            "Outcome": "rottrain.training.stages",
            "Result": "rottrain.evaluation.evaluate",
            "RoT": "rottrain.generation.generate",
            "SftConfig": "rottrain.config",
            "Stage1Config": "rottrain.config",
            "Stage2Config": "rottrain.config",
            "evaluate": "rottrain.api",
            "sft": "rottrain.api",
            "stage1": "rottrain.api",
            "stage2": "rottrain.api",
        },
    )

__all__ = [
    "Generation",
    "Outcome",
    "Result",
    "RoT",
    "SftConfig",
    "Stage1Config",
    "Stage2Config",
    "__version__",
    "evaluate",
    "sft",
    "stage1",
    "stage2",
]
