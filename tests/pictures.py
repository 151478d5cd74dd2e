"""Picture files that Pillow does not write: 16-bit colour, floating point, and headers that promise too much."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def png_file(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG; `colour` is 0 gray, 2 RGB, 6 RGBA; `rows` begin with a filter byte each."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0),
        b"IDAT" + zlib.compress(rows, 1),
        b"IEND",
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def write_png(path: Path, image: NDArray) -> None:
    """uint8 or uint16 [H, W, 1, 3 or 4]."""
    height, width, channels = image.shape
    big = image.astype(image.dtype.newbyteorder(">"))
    rows = np.concatenate([np.zeros((height, 1), np.uint8), big.view(np.uint8).reshape(height, -1)], axis=1)
    path.write_bytes(png_file(width, height, 8 * image.itemsize, {1: 0, 3: 2, 4: 6}[channels], rows.tobytes()))


def tiff(image: NDArray, order: str = "<") -> bytes:
    """Uncompressed TIFF of [H, W] or [H, W, C], integers or floating point, in the image's own byte order."""
    height, width, *rest = image.shape
    channels = rest[0] if rest else 1
    values = {
        256: width,
        257: height,
        258: 8 * image.itemsize,
        259: 1,
        262: 1 if channels == 1 else 2,
        277: channels,
        278: height,
        279: image.nbytes,
        339: 3 if image.dtype.kind == "f" else 1,
    }
    start = 8 + 2 + 12 * (len(values) + 1) + 4 + 2 * channels
    many = {258: struct.pack(order + "H", values[258]) * channels}
    entries = b"".join(
        struct.pack(order + "HHII", tag, 3, channels, start - 2 * channels)
        if tag in many and channels > 2
        else struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        if tag not in (256, 257, 273, 278, 279)
        else struct.pack(order + "HHII", tag, 4, 1, value)
        for tag, value in sorted((values | {273: start}).items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(values) + 1)
    return head + entries + bytes(4) + many[258] + image.tobytes()
