"""Hidden states of a frozen language model under teacher forcing, kept on disk: they are the same in every epoch.

One file a folder of shards, in a folder named by what decides the values: model, precision, shards, and what is made
of their latents. A row counts once its checksum fits, so a run that is killed, or two at a time, leave nothing wrong.

Shapes: B rows, K latents of a row, D width of the language model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rotdata.errors import UsageError
from rotdata.shards import EmbeddingShards, write_atomically
from rottrain.data.batches import Example, Shape, ShardRows
from rottrain.data.rows import Selection
from rottrain.model.backbone import Backbone
from rottrain.model.precision import precision_of
from rottrain.model.tensors import writing

_ABOUT, _VALUES, _CHECKS = "about.json", "hidden.bin", "checks.bin"
_BLOCK = 1 << 26


class HiddenStates:
    """Hidden states of selected rows, by the numbers that a RowReader gives these rows."""

    def __init__(self, folder: Path, selections: Sequence[Selection], backbone: Backbone, shape: Shape) -> None:
        """Open what `folder` holds of these rows, or make room for it. Raises UsageError if the disk is too small."""
        self._selections = list(selections)
        origin = {
            "model": _fingerprint(backbone),
            "precision": precision_of(backbone),
            "budget": shape.budget,
            "fit": None if shape.budget is None else shape.fit,
        }
        self._files = [_Rows(folder, each.shards, shape, origin, backbone) for each in selections]

    def get(self, index: int) -> Tensor | None:
        """Hidden states [K, D] of a row, or None if they are not known."""
        file, row = self._find(index)
        return file.get(row)

    def put(self, indices: Sequence[int], hidden_BKD: Tensor, mask_BK: Tensor) -> None:
        """Keep the hidden states of some rows."""
        for index, hidden_KD, mask_K in zip(indices, hidden_BKD.detach().cpu(), mask_BK.cpu(), strict=True):
            file, row = self._find(index)
            file.put(row, hidden_KD[mask_K])

    def _find(self, index: int) -> tuple[_Rows, int]:
        for file, selection in zip(self._files, self._selections, strict=True):
            if index < len(selection):
                return file, selection.rows[index]
            index -= len(selection)
        raise IndexError(index)


class _Rows:
    """The hidden states of one folder of shards."""

    def __init__(
        self, parent: Path, shards: EmbeddingShards, shape: Shape, origin: dict[str, Any], backbone: Backbone
    ) -> None:
        texts = [shards.read_texts(group) for group in range(len(shards.group_rows))]
        latents = [shape.count(count) for group in texts for count in group.num_latents]
        about = origin | {"shards": shards.manifest.fingerprint}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self._folder = parent / key[:16]
        self._dtype = torch.bfloat16 if backbone.dtype == torch.bfloat16 else torch.float32
        self._width = backbone.width
        self._row_bytes = np.array(latents, dtype=np.int64) * self._width * self._dtype.itemsize
        self._starts = np.concatenate([[0], np.cumsum(self._row_bytes)])
        self._make_room(about)
        self._values = os.open(self._folder / _VALUES, os.O_RDWR)
        weakref.finalize(self, os.close, self._values)
        self._checks: NDArray[np.uint32] = np.memmap(self._folder / _CHECKS, dtype=np.uint32, mode="r+")

    def get(self, row: int) -> Tensor | None:
        check = int(self._checks[row])
        if not check:
            return None
        content = bytearray(os.pread(self._values, int(self._row_bytes[row]), int(self._starts[row])))
        if _checksum(content) != check:
            return None
        return torch.frombuffer(content, dtype=self._dtype).view(-1, self._width)

    def put(self, row: int, hidden_KD: Tensor) -> None:
        content = hidden_KD.contiguous().view(torch.uint8).numpy().tobytes()
        if len(content) != self._row_bytes[row]:
            raise ValueError(f"row {row} has {tuple(hidden_KD.shape)} hidden states of {hidden_KD.dtype}")
        with writing(self._folder):
            os.pwrite(self._values, content, int(self._starts[row]))
        self._checks[row] = _checksum(content)

    def _make_room(self, about: dict[str, Any]) -> None:
        """Make the files, unless they are there; about.json comes last."""
        if (self._folder / _ABOUT).exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        needed, free = int(self._starts[-1]), shutil.disk_usage(self._folder).free
        if needed > free:
            raise UsageError(
                f"the hidden states of {about['shards'][:12]} take {needed / 1e9:.1f} GB, {self._folder} has "
                f"{free / 1e9:.1f} GB free: choose another --cache-hidden, or train without"
            )
        with writing(self._folder):
            with (self._folder / _VALUES).open("ab") as file:
                file.truncate(needed)
            # They are mapped: on a full disk, a page that was never written would end the process.
            (self._folder / _CHECKS).write_bytes(bytes(4 * len(self._row_bytes)))
        write_atomically(self._folder / _ABOUT, (json.dumps(about, indent=2) + "\n").encode())


class KnownRows(Dataset[Example]):
    """Rows with their numbers, and with their hidden states as soon as they are known."""

    def __init__(self, rows: ShardRows, states: HiddenStates) -> None:
        self._rows = rows
        self._states = states

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return replace(self._rows[index], row=index, hidden_KD=self._states.get(index))


def _checksum(content: bytes | bytearray) -> int:
    """CRC-32, never 0: that stands for a row that is not there."""
    return zlib.crc32(content) or 1


def _fingerprint(backbone: Backbone) -> str:
    """SHA-256 of the language model's weights and of the words around a question."""
    digest = hashlib.sha256(json.dumps(asdict(backbone.prompt)).encode())
    for name, value in sorted(backbone.model.state_dict().items()):
        digest.update(name.encode())
        flat = value.detach().reshape(-1).view(torch.uint8)
        for start in range(0, len(flat), _BLOCK):
            digest.update(flat[start : start + _BLOCK].cpu().numpy().tobytes())
    return digest.hexdigest()
