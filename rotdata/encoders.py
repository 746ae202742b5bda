"""Frozen vision towers behind one small interface: packed patches in, one embedding a latent out.

Strips of a call are sorted by width. All linear layers see the whole call packed; attention runs once for each width,
over all strips of that width together, dense and unpadded. Position tables are computed once for each width.

Shapes: K latents of a strip, D embedding width, P patches of a call, H heads, d head width.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.errors import UnknownModel
from rotdata.models import ModelFolder
from rotdata.patches import PatchGeometry, cut, grid_thw

if TYPE_CHECKING:
    from transformers import Qwen3VLVisionModel

Precision = Literal["float32", "bfloat16"]
_GROUPED = "rot_grouped"


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What decides an encoder's output; stands in the manifest of its shards."""

    model: str
    revision: str | None
    tower_sha256: str
    output: str
    factor: int
    width: int
    """D, the embedding width."""
    dtype: Precision
    """Arithmetic of the tower."""

    def as_json(self) -> dict[str, Any]:
        """The identity as the manifest holds it."""
        return asdict(self)


class Encoder(Protocol):
    """A frozen vision tower."""

    @property
    def geometry(self) -> PatchGeometry:
        """How it cuts pictures."""

    @property
    def identity(self) -> EncoderIdentity:
        """What decides its output."""

    def encode(self, strips: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Grey strips [H, W_i] -> their latents [K_i, D], in the order given; all in one call of the tower."""


class Qwen3VLEncoder:
    """The vision tower of Qwen3-VL; targets are its merged tokens, as its language model receives them."""

    output = "pooler_output"

    def __init__(
        self, tower: Qwen3VLVisionModel, folder: ModelFolder, *, tower_sha256: str, dtype: Precision, device: str
    ) -> None:
        """Wrap a loaded tower; `load` is the way to get one from a folder."""
        _register_grouped_attention()
        tower.set_attn_implementation(_GROUPED)
        self._tower = tower.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(requires_grad=False)
        self._device = device
        config = tower.config
        self.geometry = PatchGeometry(
            patch_px=config.patch_size, merge=config.spatial_merge_size, frames=config.temporal_patch_size
        )
        self.identity = EncoderIdentity(
            model=folder.name,
            revision=folder.revision,
            tower_sha256=tower_sha256,
            output=self.output,
            factor=self.geometry.factor_px,
            width=config.out_hidden_size,
            dtype=dtype,
        )
        self._tower.patch_embed = _GreyPatchEmbed(self._tower.patch_embed.proj, self.geometry)
        self._tables: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def load(cls, folder: ModelFolder, *, dtype: Precision, device: str) -> Qwen3VLEncoder:
        """Load the tower alone. Raises UnknownModel if a weight of it is missing from the folder."""
        from safetensors import SafetensorError
        from transformers import AutoConfig, Qwen3VLVisionModel

        config = AutoConfig.from_pretrained(folder.path)
        try:
            with quiet_loading():  # it would list the language model's weights as unexpected
                tower, info = Qwen3VLVisionModel.from_pretrained(
                    folder.path,
                    config=config.vision_config,
                    key_mapping={r"^(model\.)?visual\.": ""},
                    dtype=getattr(torch, dtype),
                    ignore_mismatched_sizes=True,  # they are refused below
                    output_loading_info=True,
                )
        except SafetensorError as error:
            raise UnknownModel(
                f"the weights of {folder.name} are damaged ({error}): fetch or copy them again"
            ) from error
        missing = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
        if missing:
            raise UnknownModel(
                f"{folder.name} lacks {len(missing)} weights of its vision tower ({', '.join(missing[:3])} ...): "
                "the download is incomplete or it is no Qwen3-VL checkpoint"
            )
        return cls(tower, folder, tower_sha256=tower_sha256(folder), dtype=dtype, device=device)

    @torch.inference_mode()
    def encode(self, strips: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Grey strips [H, W_i] -> their latents [K_i, D], in the order given; all in one call of the tower."""
        if not strips:
            return []
        order = sorted(range(len(strips)), key=lambda i: strips[i].shape[1])
        widths = [strips[i].shape[1] for i in order]
        tiles = np.concatenate([cut(strips[i], self.geometry) for i in order])
        patches = torch.from_numpy(tiles).to(self._device)  # [P, p*p], grey
        groups = [(width, len(list(same))) for width, same in groupby(widths)]
        merged = self._forward(patches, groups).float().cpu().numpy()  # [sum of K, D]
        borders = np.cumsum([width // self.geometry.factor_px for width in widths])
        latents: list[NDArray[np.float32]] = [merged[:0]] * len(strips)
        for i, rows in zip(order, np.split(merged, borders[:-1]), strict=True):
            latents[i] = rows
        return latents

    def _forward(self, patches: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """One call of the tower on packed grey patches of (width, how many strips) groups -> [sum of K, D]."""
        tables = [(self._table(width), count) for width, count in groups]
        repeated = {
            name: torch.cat([table[name].repeat(count, 1) for table, count in tables])
            for name in ("interp_indices", "interp_weights", "position_ids")
        }
        lengths = [(count, len(table["position_ids"])) for table, count in tables]
        return self._tower(
            patches,
            grid_thw=torch.from_numpy(grid_thw([width for width, _ in groups], self.geometry)),
            cu_seqlens=torch.tensor([0, len(patches)], dtype=torch.int32),
            strip_groups=lengths,
            **repeated,
        ).pooler_output

    def _table(self, width_px: int) -> dict[str, Tensor]:
        """Position tables of one strip of that width, from the tower's own functions."""
        if width_px not in self._tables:
            from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

            grid = torch.from_numpy(grid_thw([width_px], self.geometry))
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=self._tower.num_grid_per_side,
                mode=self._tower.interpolation_mode,
                align_corners=self._tower.interpolation_align_corners,
                spatial_merge_size=self.geometry.merge,
            )
            positions = get_vision_position_ids(grid, self.geometry.merge)
            tables = {"interp_indices": indices, "interp_weights": weights, "position_ids": positions}
            self._tables[width_px] = {name: table.to(self._device) for name, table in tables.items()}
        return self._tables[width_px]


class _GreyPatchEmbed(nn.Module):
    """A tower's patch embedding for grey pictures that stand still: [P, p*p] grey values -> [P, width].

    Channels and frames of such a patch are copies of one picture, so their weights add up: a sixth of the arithmetic,
    and of the bytes to move. In fp32, since the sum of weights is not among the tower's own rounded values.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv3d, geometry: PatchGeometry) -> None:
        super().__init__()
        per_channel = convolution.weight.detach().float().sum(dim=2).flatten(start_dim=2)  # [width, C, p*p]
        mean, std = (
            torch.tensor(values, device=per_channel.device)[:, None] for values in (geometry.mean, geometry.std)
        )
        self._dtype = convolution.weight.dtype
        # With x = 2 * grey / 255 - 1, a channel's normalised value is x / (2 * std) + (1 / 2 - mean) / std.
        self.register_buffer("weight", (per_channel / (2 * std)).sum(dim=1))
        offset = (per_channel * ((0.5 - mean) / std)).sum(dim=(1, 2))
        bias = 0 if convolution.bias is None else convolution.bias.detach().float()
        self.register_buffer("bias", offset + bias)

    def forward(self, tiles: Tensor) -> Tensor:
        """Embed grey patches."""
        values = tiles.float() / 127.5 - 1
        return F.linear(values, self.weight, self.bias).to(self._dtype)


ENCODERS: dict[str, type[Qwen3VLEncoder]] = {"qwen3_vl": Qwen3VLEncoder}
"""model_type of a model's config.json -> its encoder."""


def load_encoder(folder: ModelFolder, *, dtype: Precision | None = None, device: str | None = None) -> Encoder:
    """The frozen tower of a model. By default on the GPU in bf16 if there is one, else on the CPU in fp32.

    Raises UnknownModel for an architecture without an encoder here.
    """
    model_type = folder.config().get("model_type")
    if model_type not in ENCODERS:
        raise UnknownModel(f"no encoder for model_type {model_type!r} ({folder.name}): known are {', '.join(ENCODERS)}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    return ENCODERS[model_type].load(folder, dtype=dtype, device=device)


def tower_sha256(folder: ModelFolder) -> str:
    """SHA-256 over the vision tower's weights as stored: names, types, shapes and bytes in order of name.

    It reads no other weight, so that a trainer can compare it without loading the tower.
    """
    tensors: dict[str, tuple[dict[str, Any], bytes]] = {}
    for file in folder.weight_files():
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(length))
            except (ValueError, OverflowError, MemoryError) as error:
                raise UnknownModel(
                    f"{file.name} of {folder.name} is no safetensors file: fetch or copy it again"
                ) from error
            for name, entry in header.items():
                short = re.sub(r"^(model\.)?visual\.", "", name)
                if short != name:
                    start, stop = entry["data_offsets"]
                    stream.seek(8 + length + start)
                    tensors[short] = (entry, hashlib.sha256(stream.read(stop - start)).digest())
    if not tensors:
        raise UnknownModel(f"{folder.name} holds no weights named model.visual.*: it has no vision tower to read")
    whole = hashlib.sha256()
    for short, (entry, digest) in sorted(tensors.items()):
        whole.update(json.dumps([short, entry["dtype"], entry["shape"]]).encode() + digest)
    return whole.hexdigest()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' load report and progress bars off the screen; its errors still raise."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _register_grouped_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_GROUPED, _grouped_attention)


def _grouped_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,  # noqa: ARG001 -- transformers passes it by name
    *,
    scaling: float,
    strip_groups: list[tuple[int, int]],
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each strip of a packed call: [1, H, P, d] three times -> [1, P, H, d].

    `strip_groups` are (how many strips, patches of each) runs along P; every run is one dense call.
    """
    _, heads, _, width = query.shape
    outputs = []
    start = 0
    for count, length in strip_groups:
        stop = start + count * length
        queries, keys, values = (
            packed[0, :, start:stop].reshape(heads, count, length, width).transpose(0, 1)  # [count, H, length, d]
            for packed in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        outputs.append(mixed.transpose(1, 2).reshape(count * length, heads, width))
        start = stop
    return torch.cat(outputs)[None], None
