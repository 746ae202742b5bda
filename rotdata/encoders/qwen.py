"""The vision towers of the Qwen-VL families; targets are their merged tokens, as the language model receives them.

Shapes: K latents of a picture, D embedding width, P patches of a call, m merge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    PreTrainedModel,
    Qwen3_5MoeVisionModel,
    Qwen3_5VisionModel,
    Qwen3VLMoeVisionModel,
    Qwen3VLVisionModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from rotdata.encoders.attention import AttentionPlan
from rotdata.encoders.interface import Placement
from rotdata.encoders.models import ModelFolder
from rotdata.encoders.packed import GreyPatchEmbed, PackedEncoder, SameSize
from rotdata.encoders.patches import grid_thw
from rotdata.encoders.weights import load_tower


class QwenEncoder(PackedEncoder):
    """What the towers have in common; a family says which class is its tower, and what its forward call needs."""

    output = "pooler_output"
    tower_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, tower: PreTrainedModel, folder: ModelFolder, where: Placement) -> None:
        """Wrap a loaded tower; `load` is the way to get one from a folder."""
        super().__init__(tower, folder, where)
        self._tower.patch_embed = GreyPatchEmbed(self._tower.patch_embed.proj, self.geometry)
        self._tables: dict[tuple[int, ...], dict[str, Tensor]] = {}

    @classmethod
    def load(cls, folder: ModelFolder, where: Placement) -> Self:
        """Load the tower alone. Raises UnknownModel if a weight of it is missing from the folder."""
        config = AutoConfig.from_pretrained(folder.path).vision_config
        return cls(load_tower(cls.tower_class, config, folder, dtype=where.dtype), folder, where)

    def _forward(self, tiles: Tensor, groups: Sequence[SameSize]) -> Tensor:
        """One call of the tower on packed grey patches -> [sum of K, D]."""
        tables = [(self._table(group.size), group.count) for group in groups]
        repeated = {name: torch.cat([table[name].repeat(count, 1) for table, count in tables]) for name in tables[0][0]}
        return self._tower(
            tiles,
            grid_thw=torch.from_numpy(grid_thw([group.size for group in groups], self.geometry)),
            cu_seqlens=torch.tensor([0, len(tiles)], dtype=torch.int32),  # one sequence to the tower: plans divide it
            **repeated,
            **self._attention(groups),
        ).pooler_output

    def _table(self, size: tuple[int, ...]) -> dict[str, Tensor]:
        """Tables of one picture of that size, a row a patch, computed once."""
        if size not in self._tables:
            tables = self._new_table(torch.from_numpy(grid_thw([size], self.geometry)))
            self._tables[size] = {name: table.to(self.device) for name, table in tables.items()}
        return self._tables[size]

    def _new_table(self, grid: Tensor) -> dict[str, Tensor]:
        """Positions of one picture's patches, from the tower's own functions."""
        return {"position_ids": get_vision_position_ids(grid, self.geometry.merge)}

    def _attention(self, groups: Sequence[SameSize]) -> dict[str, Any]:
        """What of the forward call says which patches attend to each other: here, those of one picture."""
        plan = AttentionPlan(runs=self._picture_runs(groups))
        return {"plans": {block.attn: plan for block in self._tower.blocks}}

    def _picture_runs(self, groups: Sequence[SameSize]) -> list[tuple[int, int]]:
        """(How many pictures, patches of each) of every size."""
        return [(group.count, math.prod(group.size) // self.geometry.patch_px**2) for group in groups]


class Qwen3VLEncoder(QwenEncoder):
    """Qwen3-VL: rotary positions, and a learned table of positions that is interpolated over a picture."""

    tower_class = Qwen3VLVisionModel

    def _new_table(self, grid: Tensor) -> dict[str, Tensor]:
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=self._tower.num_grid_per_side,
            mode=self._tower.interpolation_mode,
            align_corners=self._tower.interpolation_align_corners,
            spatial_merge_size=self.geometry.merge,
        )
        return super()._new_table(grid) | {"interp_indices": indices, "interp_weights": weights}


class Qwen3VLMoeEncoder(Qwen3VLEncoder):
    """Qwen3-VL with a mixture of experts as language model; its tower is of the same kind."""

    tower_class = Qwen3VLMoeVisionModel


class Qwen35Encoder(Qwen3VLEncoder):
    """Qwen3.5, the same kind of tower without deepstack."""

    tower_class = Qwen3_5VisionModel


class Qwen35MoeEncoder(Qwen3VLEncoder):
    """Qwen3.5 with a mixture of experts as language model."""

    tower_class = Qwen3_5MoeVisionModel


class Qwen25VLEncoder(QwenEncoder):
    """Qwen2.5-VL: all but a few of its layers attend within windows of 112 px, which divide a strip along its width.

    The tower puts its tokens into an order of ours (`window_index`) and its output back into the order of the pictures.
    Ours has windows of equal size together, over the whole call: the many windowed layers then run a few dense calls
    without moving anything, and only the few others gather each picture's patches first.
    """

    tower_class = Qwen2_5_VisionTransformerPretrainedModel

    def __init__(self, tower: PreTrainedModel, folder: ModelFolder, where: Placement) -> None:
        super().__init__(tower, folder, where)
        self._windows: dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def _attention(self, groups: Sequence[SameSize]) -> dict[str, Any]:
        index, sizes = self._windows_of_call(groups)
        order = np.argsort(sizes, kind="stable")  # windows of equal size together, each still in one piece
        index = index[order]
        patches_a_latent = self.geometry.merge**2
        windows = AttentionPlan(
            runs=[
                (int(latents // size), int(size) * patches_a_latent)
                for size, latents in zip(*np.unique(sizes, return_counts=True), strict=True)
            ]
        )
        pictures = AttentionPlan(
            runs=self._picture_runs(groups), gather=self._patches_of(np.argsort(index)), scatter=self._patches_of(index)
        )
        whole = set(self._tower.fullatt_block_indexes)
        plans: Mapping[Any, AttentionPlan] = {
            block.attn: pictures if layer in whole else windows for layer, block in enumerate(self._tower.blocks)
        }
        return {
            "plans": plans,
            "window_index": torch.from_numpy(index).to(self.device),
            "cu_window_seqlens": torch.tensor([0, len(index) * patches_a_latent], dtype=torch.int32),
        }

    def _windows_of_call(self, groups: Sequence[SameSize]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All latents, window after window, and how many latents the window of each has: [sum of K] twice."""
        indices, sizes = [], []
        start = 0
        for group in groups:
            index, latents_in_window = self._windows_of_size(group.size)
            starts = start + len(index) * np.arange(group.count)
            indices.append((starts[:, None] + index).ravel())
            sizes.append(np.tile(latents_in_window, group.count))
            start += len(index) * group.count
        return np.concatenate(indices), np.concatenate(sizes)

    def _windows_of_size(self, size: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same for one picture of that size, from the tower's own function: [K] twice, computed once."""
        if size not in self._windows:
            index, borders = get_vision_window_index(
                torch.from_numpy(grid_thw([size], self.geometry)),
                spatial_merge_size=self.geometry.merge,
                window_size=self._tower.window_size,
                patch_size=self.geometry.patch_px,
            )
            lengths = np.diff(borders.numpy()).astype(np.int64) // self.geometry.merge**2
            self._windows[size] = index.numpy(), np.repeat(lengths, lengths)
        return self._windows[size]

    def _patches_of(self, latents: NDArray[np.int64]) -> Tensor:
        """Places of latents -> places of their patches: [sum of K] -> [P]."""
        each = self.geometry.merge**2
        return torch.from_numpy((latents[:, None] * each + np.arange(each)).ravel()).to(self.device)
