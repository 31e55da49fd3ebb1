"""The registered model: encoded images in, class names and probabilities out.

MLflow runs this file itself ("models from code"), so nothing is pickled. The model opens no file
and no address that a client names: a string is base64 or an error.

Shapes: N images, K classes, E joint embedding width.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image
from torch import Tensor

from pipeline.backbone import BackboneConfig, load_backbone
from pipeline.decode import Limits, decode_picture
from pipeline.errors import report_all
from pipeline.few_shot import split_base_new
from pipeline.images import encode_tokens
from pipeline.metrics import logits
from pipeline.packed_prompt import load_prompt
from pipeline.stored_prompt import StoredPrompt

MAX_BYTES = 16 * 2**20
LIMITS = Limits(
    formats=("PNG", "JPEG", "WEBP", "GIF", "BMP"),
    max_bytes=MAX_BYTES,
    max_pixels=32_000_000,
    max_aspect=100,
)
"""Stricter than those of training: here strangers send the images."""
MAX_CLASSES = 10_000
MAX_NAME = 500
TOP = 5
CHUNK = 64
CANDIDATES = ("all", "base", "new")


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


class PromptModel(PythonModel):
    """The prompts of one role, one per task, and the backbone that they were learned for."""

    def load_context(self, context: Any) -> None:
        """Load the backbone and the prompts.

        Raises:
            ValueError: if the backbone is not the one that the prompts were learned for.
        """
        paths = {name: Path(path) for name, path in context.artifacts.items()}
        self.about = json.loads(paths["model"].read_text())
        found = self.about["backbone"]
        name = str(paths["backbone"]) if "backbone" in paths else found["name"]
        self.backbone = load_backbone(BackboneConfig(name=name, pretrained=found["pretrained"]))
        self.prompts, self.class_names = {}, {}
        for task in self.about["tasks"]:
            file = paths["prompts"] / f"{task}.prompt"
            self.prompts[task], about = load_prompt(file, self.backbone.fingerprint)
            self.class_names[task] = tuple(about["class_names"])
        deep = any("coupling_JWD" in prompt.tensors for prompt in self.prompts.values())
        self.vision = self.backbone.vision_side() if deep else None
        self.cached_embeddings = lru_cache(maxsize=64)(self.class_embeddings)

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
            One row per image: `class_name`, its `probability` (softmax of scaled cosines), and the
            best five as lists: `top_classes`, `top_probabilities`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (HTTP 400) on an unknown task, a wrong name,
                or an image that cannot be read.
        """
        try:
            task, names = self.choose(params or {})
            class_KE = self.cached_embeddings(task, names)
            image_NE = self.image_features(model_input["image"].tolist(), task)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        probability_NK = logits(image_NE, class_KE, self.backbone.logit_scale).softmax(dim=-1)
        top = probability_NK.topk(min(TOP, len(names)))
        top_classes = [[names[k] for k in row] for row in top.indices.tolist()]
        return pd.DataFrame(
            {
                "class_name": [row[0] for row in top_classes],
                "probability": top.values[:, 0].tolist(),
                "top_classes": top_classes,
                "top_probabilities": top.values.tolist(),
            }
        )

    def choose(self, params: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Return the task and the class names to choose from.

        Raises:
            ValueError: if one of them is not allowed.
        """
        task = params.get("task") or self.about["tasks"][0]
        if task not in self.prompts:
            raise ValueError(f"task: found {task!r}; allowed are {self.about['tasks']}")
        candidates = params.get("candidates") or "all"
        if candidates not in CANDIDATES:
            raise ValueError(f"candidates: found {candidates!r}; allowed are {list(CANDIDATES)}")
        classes = tuple(params.get("classes") or ())
        if classes:
            check_classes(classes)
            return task, classes
        names = self.class_names[task]
        base, new = split_base_new(range(len(names)))
        chosen = {"all": base + new, "base": base, "new": new}[candidates]
        return task, tuple(names[label] for label in chosen)

    def class_embeddings(self, task: str, names: tuple[str, ...]) -> Tensor:
        """Return the class embeddings `[K, E]` of a task's prompt, on the CPU.

        Raises:
            ValueError: if a name is too long for the text tower.
        """
        prompt = self.prompts[task]
        text = self.backbone.text_side(prompt.init, names)
        text.check_names(prompt.n_ctx)
        return text.class_embeddings([prompt], text.pack(names, prompt.n_ctx))[0].cpu()

    def image_features(self, images: Sequence[object], task: str) -> Tensor:
        """Return unit features `[N, E]`; a chunk of images is in memory at a time.

        The prompt of the task matters if it stands in the image tower, too.

        Raises:
            ValueError: naming every image that cannot be read, or if there is none.
        """
        if not images:
            raise ValueError("image: found no row; allowed is at least one")
        parts, problems = [], []
        for start in range(0, len(images), CHUNK):
            pictures = []
            for row, value in enumerate(images[start : start + CHUNK], start):
                try:
                    pictures.append(self.backbone.transform(decode_image(value)))
                except ValueError as error:
                    problems.append(f"image {row}: {error}")
            if not problems:
                parts.append(self.encode(torch.stack(pictures), self.prompts[task]))
        report_all(f"{len(problems)} of {len(images)} image(s) cannot be read", problems)
        return torch.cat(parts)

    @torch.inference_mode()
    def encode(self, pictures_N3HW: Tensor, prompt: StoredPrompt) -> Tensor:
        """Return unit features `[N, E]` of pictures, beside the prompt if it is deep."""
        inputs = self.backbone.text_side(prompt.init, ()).inputs([prompt])
        if inputs.vision_JMW is None:
            return self.backbone.encode_images(pictures_N3HW)
        assert self.vision is not None
        token_NLW = self.vision.embed(pictures_N3HW.to(self.backbone.device))
        return encode_tokens(self.vision, token_NLW[None], inputs.vision_JMW)[0].cpu()


def check_classes(classes: Sequence[str]) -> None:
    """Refuse class names that are empty, repeated, too long or too many.

    Raises:
        ValueError: naming them.
    """
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"classes: found {len(classes)}; allowed are {MAX_CLASSES}")
    wrong = [
        name
        for name in classes
        if not (isinstance(name, str) and name.strip()) or len(name) > MAX_NAME
    ]
    report_all(
        f"classes: allowed are names of 1 to {MAX_NAME} characters",
        [f"{name!r:.60}" for name in wrong],
    )
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    report_all("classes: allowed is every name once", [repr(name) for name in repeated])


set_model(PromptModel())
