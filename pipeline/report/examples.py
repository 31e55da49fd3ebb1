"""Example predictions of a prompt: pictures that it gets right and wrong, by a fixed rule.

The rule is fixed before any picture is looked at: of the test images of the champion's first task,
in the manifest's order, the first that are right and the first that are wrong, at most one of a
class.

Shapes: n images of a target, K classes, E joint embedding width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import logits
from pipeline.features.task import TaskFeatures
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.pictures import encode_beside
from pipeline.training.protocols import Target

PER_KIND = 6
"""Pictures that are right, and as many that are wrong, of each target."""
THUMB = 96
"""Pixels of the longer side."""

SIDES = {"base": "base classes", "new": "new classes", "all": "all classes"}


@dataclass(frozen=True)
class Example:
    """A test image and what was said of it.

    Attributes:
        row: of the manifest.
        truth: its class.
        answer: the prompt's class.
        probability: of the answer, in [0, 1], among the classes of the target.
        zero_shot: what zero-shot says.
        png: the picture, small; empty until it is read.
    """

    row: int
    truth: str
    answer: str
    probability: float
    zero_shot: str
    png: bytes = b""

    @property
    def is_right(self) -> bool:
        """Whether the answer is the truth."""
        return self.answer == self.truth

    @property
    def data_uri(self) -> str:
        """The picture inside its own address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of one target.

    Attributes:
        side: of the classes: base, new or all.
        n_images, n_classes, n_right: of the whole target.
        right, wrong: the first of each.
    """

    side: str
    n_images: int
    n_classes: int
    n_right: int
    right: list[Example]
    wrong: list[Example]

    @property
    def title(self) -> str:
        """What the classes are."""
        return SIDES.get(self.side, self.side)


@torch.no_grad()
def predict(
    text: TextSide,
    features: TaskFeatures,
    prompt: StoredPrompt,
    caption_KE: Tensor,
    target: Target,
) -> list[Example]:
    """Return what a prompt says of every test image of a target, in the manifest's order.

    Args:
        text: the text tower and tokenized names.
        features: of the target's task.
        prompt: as it is stored.
        caption_KE: embeddings of the plain captions of all classes of the task.
        target: which classes and domains.
    """
    row_n, label_n = features.rows("test", target.classes, target.domains)
    names = [features.class_names[label] for label in target.classes]
    class_KE = text.class_embeddings([prompt], text.pack(names, prompt.n_ctx))[0].cpu()
    image_nE = plain_nE = features.features_NE[row_n]
    vision_SJMW = text.inputs([prompt]).vision_JMW
    if vision_SJMW is not None:
        assert text.vision is not None
        assert features.pictures is not None, "prompts in the image tower need pictures"
        image_nE = encode_beside(text.vision, features.pictures, row_n, vision_SJMW)[0].cpu()
    share_nK = F.softmax(logits(image_nE, class_KE, text.logit_scale), dim=-1)
    plain_KE = caption_KE[list(target.classes)]
    zero_n = logits(plain_nE, plain_KE, text.logit_scale).argmax(dim=-1)
    best_n = share_nK.argmax(dim=-1)
    found = [
        Example(row, names[label], names[best], float(share_nK[i, best]), names[zero])
        for i, (row, label, best, zero) in enumerate(
            zip(
                features.row_N[row_n].tolist(),
                label_n.tolist(),
                best_n.tolist(),
                zero_n.tolist(),
                strict=True,
            )
        )
    ]
    return sorted(found, key=lambda one: one.row)


def first_of_each(found: Sequence[Example], right: bool) -> list[Example]:
    """Return the first examples that are right, or wrong, each of another class."""
    chosen: dict[str, Example] = {}
    for one in found:
        if one.is_right == right and len(chosen) < PER_KIND:
            chosen.setdefault(one.truth, one)
    return list(chosen.values())


def group(
    target: Target, found: Sequence[Example], picture: Callable[[Example], Example]
) -> ExampleGroup:
    """Choose the examples of a target by the rule; `picture` adds the picture to one."""
    right, wrong = ([picture(one) for one in first_of_each(found, kind)] for kind in (True, False))
    n_right = sum(one.is_right for one in found)
    return ExampleGroup(target.side, len(found), len(target.classes), n_right, right, wrong)


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture as a small PNG; a smaller one keeps its size."""
    small, file = picture.copy(), io.BytesIO()
    small.thumbnail((THUMB, THUMB))
    small.save(file, "PNG", optimize=True)
    return file.getvalue()
