"""Pictures as files of all kinds."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.decode import decode_picture
from pipeline.serving.model import decode_image

H, W = 24, 40
GREY = (200, 120, 10)


def smooth(channels: int = 3, seed: int = 0) -> np.ndarray:
    """A picture without edges, which JPEG keeps within a few levels, `[H, W, channels]`."""
    rng = np.random.default_rng(seed)
    bands = [
        Image.fromarray(rng.integers(0, 256, (3, 4), dtype=np.uint8)).resize((W, H))
        for _ in range(channels)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """The decoded picture; served and trained alike."""
    picture = decode_picture(data)
    assert picture.mode == "RGB"
    found = np.asarray(picture).astype(int)
    assert np.array_equal(found, np.asarray(decode_image(data)))
    return found


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite colours on white, written out."""
    share = alpha[..., None] / 255
    return share * rgb + (1 - share) * 255


def png(bits: int, colour: int, rows: bytes, size: tuple[int, int], *chunks: bytes) -> bytes:
    """A PNG from raw rows, with chunks (name and data) before them."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = b"IHDR" + struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    body = [header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(part) for part in body)
