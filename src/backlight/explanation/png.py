"""Pictures as PNG within a page, without a library for drawing: a face must not need one."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

__all__ = ["as_png", "data_uri"]

# colour types of the PNG specification (ISO/IEC 15948), by channels
_KINDS = {1: 0, 3: 2, 4: 6}


def as_png(pixels: np.ndarray) -> bytes:
    """Bytes of shape (height, width), (height, width, 3) or (height, width, 4) as a PNG file."""
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    # each line begins with its filter: none
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, _KINDS[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def data_uri(pixels: np.ndarray) -> str:
    """The same as an address within a page."""
    return "data:image/png;base64," + base64.b64encode(as_png(pixels)).decode("ascii")
