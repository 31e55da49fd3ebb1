"""Example predictions of a prompt: pictures that it gets right and wrong, by a fixed rule.

Of the test images of the champion's first task, in the manifest's order: the first that are right
and the first that are wrong, at most one of each class.

Shapes: N images of a target, K classes, E joint embedding width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import logits
from pipeline.core import paths
from pipeline.core.files import write_atomic
from pipeline.data.decode import read_picture
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.features.task import TaskFeatures
from pipeline.prompts.file import load_prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.config import InputsConfig, ProtocolConfig
from pipeline.training.inputs import load_inputs
from pipeline.training.pictures import encode_beside
from pipeline.training.protocols import Target, targets

PER_KIND = 6
"""Pictures that are right, and as many that are wrong, of each target."""
THUMB = 96
"""Pixels of the longer side."""


@dataclass(frozen=True)
class Example:
    """A test image and the answers to it.

    Attributes:
        row: of the manifest.
        truth: its class.
        answer: the prompt's class.
        probability: of the answer, in [0, 1], among the classes of the target.
        zero_shot: the answer of zero-shot.
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


def example_groups(
    task: str, seed: int, protocol: ProtocolConfig, config: InputsConfig
) -> list[ExampleGroup]:
    """Return predictions of the champion's prompt of a task and seed, on that task.

    Raises:
        ValueError: if the prompt or the features cannot be read, or do not belong together.
    """
    path = paths.prompt_path("champion", task, seed)
    prompt, _ = load_prompt(path)
    coupling = prompt.tensors.get("coupling_JWD")
    depth = coupling.shape[0] if coupling else 0
    inputs = load_inputs([task], config._replace(init=prompt.init), prompt.n_ctx, depth)
    load_prompt(path, inputs.backbone.fingerprint)  # refuses a prompt of another backbone
    manifest = load_manifest(paths.manifest_path(task), root=config.root)
    features, caption_KE = inputs.tasks[task], inputs.captions_KE(task)
    return [
        choose(target, predict(inputs.text, features, prompt, caption_KE, target), manifest)
        for target in targets(protocol, task, {task: features})
        if target.task == task and target.domain == "shots"
    ]


@torch.no_grad()
def predict(
    text: TextSide,
    features: TaskFeatures,
    prompt: StoredPrompt,
    caption_KE: Tensor,
    target: Target,
) -> list[Example]:
    """Return a prompt's answer to every test image of a target, in the manifest's order.

    Args:
        text: the text tower and tokenized names.
        features: of the target's task.
        prompt: as it is stored.
        caption_KE: embeddings of the plain captions of all classes of the task.
        target: which classes and domains.
    """
    row_N, label_N = features.rows("test", target.classes, target.domains)
    names = [features.class_names[label] for label in target.classes]
    class_KE = text.class_embeddings([prompt], text.pack(names, prompt.n_ctx))[0].cpu()
    image_NE = plain_NE = features.features_NE[row_N]
    vision_SJMW = text.inputs([prompt]).vision_JMW
    if vision_SJMW is not None:
        image_NE = encode_beside(text.vision, features.pictures, row_N, vision_SJMW)[0].cpu()
    share_NK = F.softmax(logits(image_NE, class_KE, text.logit_scale), dim=-1)
    zero_N = logits(plain_NE, caption_KE[list(target.classes)], text.logit_scale).argmax(dim=-1)
    best = share_NK.max(dim=-1)
    columns = (features.row_N[row_N], label_N, best.indices, best.values, zero_N)
    found = [
        Example(row, names[label], names[answer], share, names[zero])
        for row, label, answer, share, zero in zip(*(c.tolist() for c in columns), strict=True)
    ]
    return sorted(found, key=lambda one: one.row)


def choose(target: Target, found: Sequence[Example], manifest: Manifest) -> ExampleGroup:
    """Choose the examples of a target by the rule, and read their pictures."""
    right, wrong = (
        [with_picture(one, manifest) for one in first_of_each(found, kind)]
        for kind in (True, False)
    )
    n_right = sum(one.is_right for one in found)
    return ExampleGroup(target.side, len(found), len(target.classes), n_right, right, wrong)


def first_of_each(found: Sequence[Example], right: bool) -> list[Example]:
    """Return the first examples that are right, or wrong, each of another class."""
    chosen: dict[str, Example] = {}
    for one in found:
        if one.is_right == right and len(chosen) < PER_KIND:
            chosen.setdefault(one.truth, one)
    return list(chosen.values())


def with_picture(one: Example, manifest: Manifest) -> Example:
    """Return an example with its picture, which is saved with the charts, too."""
    image = manifest.rows["image"].iloc[one.row]
    picture = read_picture(image["path"] if image["bytes"] is None else image["bytes"])
    one = replace(one, png=thumbnail(picture))
    path = paths.FIGURES / "examples" / f"{one.row}.png"
    write_atomic(path, lambda temporary: temporary.write_bytes(one.png))
    return one


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture as a small PNG; a smaller one keeps its size."""
    small, file = picture.copy(), io.BytesIO()
    small.thumbnail((THUMB, THUMB))
    small.save(file, "PNG", optimize=True)
    return file.getvalue()
