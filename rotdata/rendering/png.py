"""Grey pictures <-> PNG. The pictures are for people and for viewers; they are written once and quickly.

A strip repeats its letters, so deflate finds them in unfiltered rows: choosing a filter for each row, as general
encoders do, takes longer than compressing and makes larger files.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from rotdata.errors import ShardError

_LEVEL = 3


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A grey picture [H, W] as PNG."""
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with the number of its filter: none
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib_ng.compress(rows, _LEVEL)),
            _chunk(b"IEND", b""),
        ]
    )


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """The grey pixels [H, W] of a PNG. Raises ShardError if it is none that can be read."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return np.asarray(image.convert("L"))
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ShardError(f"a picture can't be read ({error}): make its shard again") from error


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
