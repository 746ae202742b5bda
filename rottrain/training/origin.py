"""The checkpoint that a latent stage starts from: words first, or an earlier stage; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rotdata.errors import CheckpointError, ShardMismatch, UsageError
from rottrain.config import LatentConfig, LoraSettings, Stage1Config, from_dict
from rottrain.data.rows import Selection
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.model.glyph_probe import GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.model.trained import check_not_exported


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a latent stage starts from."""

    folder: Path
    config: CheckpointConfig

    @classmethod
    def of(
        cls, folder: Path, selections: Sequence[Selection], recipe: LatentConfig, stages: Sequence[checkpoints.Stage]
    ) -> Origin:
        """A checkpoint of one of these stages. Raises CheckpointError, and what else does not go together."""
        check_not_exported(folder)
        config = checkpoints.load_config(folder)
        if config.stage not in stages:
            theirs = "stage 2 starts" if "sft" not in stages else "stage 1 starts from the base model, or"
            named = " or ".join("`rottrain sft`" if stage == "sft" else "stage 1" for stage in stages)
            raise CheckpointError(f"{folder} is a {config.stage} checkpoint: {theirs} --from one of {named}")
        encoding = selections[0].shards.manifest.encoding_fingerprint
        if config.head is not None and config.encoding != encoding:
            raise ShardMismatch(
                f"{folder} was trained on latents of encoding {config.encoding[:12]}, the shards in "
                f"{selections[0].shards.folder} are of {encoding[:12]}: use the shards that it was trained on, or "
                "train stage 1 on these"
            )
        known = from_dict(LoraSettings, config.run["recipe"]["lora"])
        if "adapter" in config.learnt and recipe.trainable == "lora" and known != recipe.lora:
            raise UsageError(
                f"the adapter of {folder} goes on learning, which has {_listed(known)}: give the same ones, not "
                f"{_listed(recipe.lora)}"
            )
        return cls(folder, config)

    def head(self, recipe: Stage1Config) -> ProjectionHead | None:
        """The head that goes on learning in stage 1; None where words alone were taught. Raises UsageError."""
        if self.config.head is None:
            return None
        known, scaling = self.config.head, self.config.run["recipe"]["scaling"]
        asked = {name: value for name, value in vars(recipe.head).items() if value is not None}
        if not asked.items() <= known.items() or recipe.scaling != scaling:
            raise UsageError(
                f"the head of {self.folder} goes on learning, which has hidden {known['hidden']}, activation "
                f"{known['activation']} and scaling {scaling}: give the same ones, not {recipe.head.hidden}, "
                f"{recipe.head.activation} and {recipe.scaling}"
            )
        return checkpoints.load_head(self.folder, self.config)

    def probe(self) -> GlyphProbe | None:
        """Its glyph probe, if it has one."""
        return checkpoints.load_probe(self.folder, self.config)

    def put_on(self, backbone: Backbone, recipe: LatentConfig) -> None:
        """Make the base model what the checkpoint has made of it. Raises CheckpointError."""
        checkpoints.check_backbone(self.folder, self.config, backbone)
        checkpoints.load_learnt(self.folder, self.config, backbone, trainable=recipe.trainable == "lora")


def _listed(settings: LoraSettings) -> str:
    """An adapter's settings in words."""
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
