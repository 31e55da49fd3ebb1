"""The registered model: encoded images in, class names and probabilities out.

MLflow runs this file itself ("models from code"), so nothing is pickled. The model opens no file
and no address that a client names: a string is base64 or an error. Under `mlflow models serve` it
also puts a guard in front of the server (`guard`).

Shapes: N images, E joint embedding width.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image
from torch import Tensor

from pipeline.core.errors import report_all
from pipeline.data.decode import Limits, decode_picture
from pipeline.serving.calls import COLUMN, MAX_IMAGES
from pipeline.serving.guard import guard_server
from pipeline.serving.predictor import Predictor, load_model_files

MAX_BYTES = 16 * 2**20
LIMITS = Limits(
    formats=("PNG", "JPEG", "WEBP", "GIF", "BMP"),
    max_bytes=MAX_BYTES,
    max_pixels=32_000_000,
    max_aspect=100,
)
"""Stricter than those of training: here strangers send the images."""
MAX_PIXELS = 512_000_000
"""Of all images of a call: some ten seconds of decoding."""
CHUNK = 64


def image_bytes(value: object) -> bytes:
    """Return the bytes of an encoded image, given as bytes or base64.

    Raises:
        ValueError: on any other string (a path is never opened), another type, or too many bytes.
    """
    if isinstance(value, str):
        if len(value) > 2 * MAX_BYTES:
            raise ValueError(f"{len(value)} characters of base64; allowed are {MAX_BYTES} bytes")
        try:
            value = base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                "a string that is no base64; allowed are bytes or base64 of an "
                "encoded image (paths and addresses are not opened)"
            ) from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"found {type(value).__name__}; allowed are bytes, or base64 as a string")
    data = bytes(value)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes; allowed are {MAX_BYTES}")
    return data


def decode_image(value: object) -> Image.Image:
    """Return a picture as training sees it, upright RGB, from bytes or base64.

    Its size is checked before its pixels are decoded.

    Raises:
        ValueError: if it is not an image within `LIMITS`, or damaged.
    """
    return decode_picture(image_bytes(value), LIMITS)


def claimed_pixels(value: object) -> int:
    """Return how many pixels an image's header claims, if it is one; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(image_bytes(value)), formats=LIMITS.formats) as picture:
            return min(picture.width * picture.height, LIMITS.max_pixels)
    except Exception:  # Pillow raises many kinds on damaged files; decoding says which
        return 0


def check_amount(images: Sequence[object]) -> None:
    """Refuse a call that asks for too much at once, before anything is decoded.

    Raises:
        ValueError: on no image, more than `MAX_IMAGES`, or more than `MAX_PIXELS` in all.
    """
    if not images:
        raise ValueError("image: found no row; allowed is at least one")
    if len(images) > MAX_IMAGES:
        raise ValueError(f"image: found {len(images)} rows; allowed are {MAX_IMAGES} at once")
    pixels = sum(map(claimed_pixels, images))
    if pixels > MAX_PIXELS:
        raise ValueError(f"image: {pixels} pixels in all; allowed are {MAX_PIXELS} at once")


class PromptModel(PythonModel):
    """The prompts of one configuration, one per task, behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load the backbone and the prompts.

        Raises:
            ValueError: if the backbone is not the one that the prompts were learned for.
        """
        paths = {name: Path(path) for name, path in context.artifacts.items()}
        self.predictor: Predictor = load_model_files(paths["model"].parent, paths.get("backbone"))
        guard_server()

    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow's interface)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Tell what the images show.

        Args:
            context: MLflow's; not used.
            model_input: a table with column `image`: bytes or base64 of encoded images.
            params: `task`: whose prompt and classes are used; `candidates`: all, base or new
                classes of the task; `classes`: other names to choose from, instead of the task's.

        Returns:
            One row per image, with the columns of `Predictor.answer`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (HTTP 400) on an unknown task, a wrong name,
                too much at once, or an image that cannot be read.
        """
        params = params or {}
        try:
            task, names = self.predictor.choose(
                params.get("task"), params.get("candidates") or "all", params.get("classes") or ()
            )
            images = model_input[COLUMN].tolist()
            check_amount(images)
            self.predictor.embeddings(task, names)  # refuses names before images are decoded
            image_NE = self.image_features(images, task)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame(self.predictor.answer(image_NE, task, names))

    def image_features(self, images: Sequence[object], task: str) -> Tensor:
        """Return unit features `[N, E]`; a chunk of images is in memory at a time.

        Raises:
            ValueError: naming every image that cannot be read.
        """
        parts, problems = [], []
        for start in range(0, len(images), CHUNK):
            pictures = []
            for row, value in enumerate(images[start : start + CHUNK], start):
                try:
                    pictures.append(self.predictor.transform(decode_image(value)))
                except ValueError as error:
                    problems.append(f"image {row}: {error}")
            if not problems:
                parts.append(self.predictor.encode(torch.stack(pictures), task))
        report_all(f"{len(problems)} of {len(images)} image(s) cannot be read", problems)
        return torch.cat(parts)


set_model(PromptModel())
