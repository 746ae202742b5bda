"""LLaVA-1.6: CLIP's vision tower and the projector to the language model, at the native size of a strip.

This is off the distribution that the model was trained on. It has only seen squares of 336 x 336 px, each a picture or
a tile of one, with one token a patch and rows of tokens closed by a newline token. Here CLIP's table of positions is
interpolated (bicubic, over the whole picture) to two rows of patches and as many columns as the strip has; the tokens
of a factor's patches, 2 x 2, are projected and averaged to one latent, so that K = width / factor as everywhere; and
there is no thumbnail and no newline token.

Shapes: K latents of a picture, D embedding width, P patches of a call, N patches of one picture, E width of the tower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModel, LlavaNextConfig, LlavaNextPreTrainedModel
from transformers.models.llava_next.modeling_llava_next import LlavaNextMultiModalProjector

from rotdata.encoders.attention import AttentionPlan
from rotdata.encoders.interface import Placement
from rotdata.encoders.models import ModelFolder
from rotdata.encoders.packed import GreyPatchEmbed, PackedEncoder, SameSize
from rotdata.encoders.weights import load_tower
from rotdata.errors import UnknownModel


class LlavaNextTower(LlavaNextPreTrainedModel):
    """The two parts of LLaVA-NeXT that turn pictures into what its language model receives."""

    base_model_prefix = ""

    def __init__(self, config: LlavaNextConfig) -> None:
        super().__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.multi_modal_projector = LlavaNextMultiModalProjector(config)
        self.post_init()


class LlavaNextEncoder(PackedEncoder):
    """CLIP's tower up to the layer that LLaVA takes, then the projector, then the mean of each factor's tokens."""

    output = "mean of projected patches"

    def __init__(self, tower: LlavaNextTower, folder: ModelFolder, where: Placement) -> None:
        """Wrap a loaded tower; `load` is the way to get one from a folder."""
        super().__init__(tower, folder, where)
        clip = self._tower.vision_tower
        layer = tower.config.vision_feature_layer
        # Hidden state 0 is what enters the first layer, hidden state n what leaves the n-th; -1 is the last of them.
        self._layers = clip.encoder.layers[: layer if layer >= 0 else len(clip.encoder.layers) + 1 + layer]
        self._patch_embed = GreyPatchEmbed(clip.embeddings.patch_embedding, self.geometry)
        self._positions: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def load(cls, folder: ModelFolder, where: Placement) -> Self:
        """Load the tower and projector alone. Raises UnknownModel if a weight of them is missing from the folder."""
        config = AutoConfig.from_pretrained(folder.path)
        if not isinstance(config.vision_feature_layer, int) or config.vision_config.model_type != "clip_vision_model":
            raise UnknownModel(
                f"{folder.name} takes its features from {config.vision_config.model_type}, layers "
                f"{config.vision_feature_layer}: this encoder knows CLIP and one layer, as LLaVA-1.6 has"
            )
        return cls(load_tower(LlavaNextTower, config, folder, dtype=where.dtype), folder, where)

    def _forward(self, tiles: Tensor, groups: Sequence[SameSize]) -> Tensor:
        """One call of the tower on packed grey patches -> [sum of K, D]."""
        clip = self._tower.vision_tower
        counts = [math.prod(group.size) // self.geometry.patch_px**2 for group in groups]  # N of each size
        class_token = clip.embeddings.class_embedding.expand(1, 1, -1)
        embedded = self._patch_embed(tiles).split([group.count * n for group, n in zip(groups, counts, strict=True)])
        sequences = [
            torch.cat([class_token.expand(group.count, -1, -1), patches.unflatten(0, (group.count, n))], dim=1)
            + self._position(group.size)
            for group, n, patches in zip(groups, counts, embedded, strict=True)
        ]  # [count, 1 + N, E] of each size
        hidden = clip.pre_layrnorm(torch.cat([sequence.flatten(0, 1) for sequence in sequences])[None])
        plan = AttentionPlan(runs=[(len(sequence), sequence.shape[1]) for sequence in sequences])
        plans = {layer.self_attn: plan for layer in self._layers}
        for layer in self._layers:
            hidden = layer(hidden, None, plans=plans)
        is_patch = torch.cat(
            [
                torch.arange(1 + n, device=hidden.device).repeat(group.count) > 0
                for group, n in zip(groups, counts, strict=True)
            ]
        )
        projected = self._tower.multi_modal_projector(hidden[0, is_patch])  # [P, D]
        return projected.unflatten(0, (-1, self.geometry.merge**2)).mean(dim=1)

    def _position(self, size: tuple[int, ...]) -> Tensor:
        """Positions of the class token and of one picture's patches, merge block after merge block, [1 + N, E]."""
        if size not in self._positions:
            embeddings = self._tower.vision_tower.embeddings
            p, m = self.geometry.patch_px, self.geometry.merge
            rows, columns = (side // p for side in size)
            blank = torch.empty(1, 1 + rows * columns, embeddings.embed_dim, device="meta")
            in_rows = embeddings.interpolate_pos_encoding(blank, *size)[0]
            blocks = np.arange(rows * columns).reshape(rows // m, m, columns // m, m).transpose(0, 2, 1, 3).ravel()
            order = torch.from_numpy(np.concatenate([[0], 1 + blocks])).to(in_rows.device)
            self._positions[size] = in_rows[order]
        return self._positions[size]
