"""Encoded images in, class names and probabilities out: what every way of serving shares.

No file and no address that a client names is opened: a string is base64 or an error.

Shapes: N images, E joint embedding width.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import report_all
from pipeline.data.decode import Limits, decode_picture
from pipeline.serving.predictor import Predictor

MAX_IMAGES = 1_000
"""Of a call."""
MAX_BYTES = 16 * 2**20
LIMITS = Limits(
    formats=("PNG", "JPEG", "WEBP", "GIF", "BMP"),
    max_bytes=MAX_BYTES,
    max_pixels=32_000_000,
    max_aspect=100,
)
"""Of an image. Stricter than those of training: here strangers send the images."""
MAX_PIXELS = 512_000_000
"""Of all images of a call: some ten seconds of decoding."""
CHUNK = 64


def classify(
    predictor: Predictor,
    images: Sequence[object],
    task: str | None = None,
    candidates: str = "all",
    classes: Sequence[str] = (),
) -> dict[str, list[Any]]:
    """Return what images show: the columns of `Predictor.answer`.

    Args:
        predictor: the prompts.
        images: bytes, or base64, of encoded images.
        task: whose prompt and classes are used; None is the first.
        candidates: `all`, `base` or `new` classes of the task.
        classes: other names to choose from, instead of the task's.

    Raises:
        ValueError: on an unknown task, a wrong name, too much at once, or naming every image that
            cannot be read.
    """
    task, names = predictor.choose(task, candidates, classes)
    check_amount(images)
    predictor.embeddings(task, names)  # refuses names before images are decoded
    return predictor.answer(image_features(predictor, images, task), task, names)


def image_features(predictor: Predictor, images: Sequence[object], task: str) -> Tensor:
    """Return unit features `[N, E]`; a chunk of images is in memory at a time.

    Raises:
        ValueError: naming every image that cannot be read.
    """
    parts, problems = [], []
    for start in range(0, len(images), CHUNK):
        pictures = []
        for row, value in enumerate(images[start : start + CHUNK], start):
            try:
                pictures.append(predictor.transform(decode_image(value)))
            except ValueError as error:
                problems.append(f"image {row}: {error}")
        if not problems:
            parts.append(predictor.encode(torch.stack(pictures), task))
    report_all(f"{len(problems)} of {len(images)} image(s) cannot be read", problems)
    return torch.cat(parts)


def check_amount(images: Sequence[object]) -> None:
    """Refuse a call that asks for too much at once, before anything is decoded.

    Raises:
        ValueError: on no image, more than `MAX_IMAGES`, or more than `MAX_PIXELS` in all.
    """
    if not 1 <= len(images) <= MAX_IMAGES:
        raise ValueError(f"image: got {len(images)} rows; expected 1 to {MAX_IMAGES}")
    pixels = sum(map(claimed_pixels, images))
    if pixels > MAX_PIXELS:
        raise ValueError(f"image: got {pixels} pixels in all; expected at most {MAX_PIXELS}")


def claimed_pixels(value: object) -> int:
    """Return how many pixels an image's header claims, if it is one; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(image_bytes(value)), formats=LIMITS.formats) as picture:
            return min(picture.width * picture.height, LIMITS.max_pixels)
    except Exception:  # Pillow raises many kinds on damaged files; decoding says which
        return 0


def decode_image(value: object) -> Image.Image:
    """Return a picture as training sees it, upright RGB, from bytes or base64.

    Its size is checked before its pixels are decoded.

    Raises:
        ValueError: if it is not an image within `LIMITS`, or damaged.
    """
    return decode_picture(image_bytes(value), LIMITS)


def image_bytes(value: object) -> bytes:
    """Return the bytes of an encoded image, given as bytes or base64.

    Raises:
        ValueError: on any other string (a path is never opened), another type, or too many bytes.
    """
    if isinstance(value, str):
        if len(value) > 2 * MAX_BYTES:
            raise ValueError(f"got {len(value)} characters; expected at most {MAX_BYTES} bytes")
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                "got a string that is not base64; expected the base64 of an encoded image (paths "
                "and addresses are not opened)"
            ) from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"got {type(value).__name__}; expected bytes, or base64 as a string")
    if len(data := bytes(value)) > MAX_BYTES:
        raise ValueError(f"got {len(data)} bytes; expected at most {MAX_BYTES}")
    return data
