"""Configurations on one task: fit all of them and their seeds in one pass, then measure.

Shapes: N images of a replica, X images that any replica trains on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import accuracy
from pipeline.data.sampling import draw_shots
from pipeline.features.task import TaskFeatures, renumber
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.config import TrainConfig, Validation
from pipeline.training.fit import PromptFit, Replica, TrainingSet
from pipeline.training.pictures import encode_beside, view_tokens
from pipeline.training.validation import validation_rows


@dataclass(frozen=True)
class Point:
    """One prompt to fit: its point of the family, its peak learning rate, its seed."""

    prompt: PromptConfig
    lr: float
    seed: int


class TaskRun:
    """The fit of some points, of equal n_ctx, on the training shots of some classes of a task."""

    def __init__(
        self,
        text: TextSide,
        features: TaskFeatures,
        points: Sequence[Point],
        train: TrainConfig,
        classes: Sequence[int],
        shots: int,
    ) -> None:
        """Draw every point's shots and build its prompt, without training.

        Raises:
            ValueError: if the points differ in n_ctx or depth, or are deeper than the towers.
        """
        sizes = sorted({(point.prompt.n_ctx, point.prompt.depth) for point in points})
        if len(sizes) != 1:
            raise ValueError(f"got n_ctx and depth {sizes}; expected one of each in a pass")
        self.text, self.features, self.shots = text, features, shots
        self.n_ctx, depth = sizes[0]
        text.check_depth(depth)
        width = text.vision.width if depth and text.vision is not None else 0
        init_MD = text.init_MD(self.n_ctx)
        self.replicas = [
            Replica(Prompt(point.prompt, init_MD, point.seed, width), point.lr, point.seed)
            for point in points
        ]
        seeds = [point.seed for point in points]
        data = training_set(text, features, classes, shots, seeds, self.n_ctx, depth > 0)
        if train.kg_weight:
            names = [features.class_names[label] for label in classes]
            data = replace(data, template_KE=text.template_embeddings(names))
        self.fit = PromptFit(text.tower, data, self.replicas, train)

    def stored(self) -> list[StoredPrompt]:
        """Return the prompts of all points as stored at this moment."""
        return [replica.prompt.store() for replica in self.replicas]

    def measure(self, split: str, classes: Sequence[int], domains: Sequence[str]) -> list[float]:
        """Return each point's accuracy on the images of some classes, among these classes.

        The prompt is measured as it is stored.
        """
        return measure_prompts(self.text, self.features, self.stored(), split, classes, domains)

    def validate(self, classes: Sequence[int], rule: Validation) -> list[float]:
        """Return each point's accuracy on the validation images of its seed; see `measure`."""
        rows = [
            validation_rows(self.features, self.shots, replica.seed, rule)
            for replica in self.replicas
        ]
        return measure_on(self.text, self.features, self.stored(), rows, classes)


def training_set(
    text: TextSide,
    features: TaskFeatures,
    classes: Sequence[int],
    shots: int,
    seeds: Sequence[int],
    n_ctx: int,
    deep: bool,
) -> TrainingSet:
    """Draw the shots of every seed, and gather the images that any of them draws.

    With prompts in the image tower (`deep`), an image is what enters the first prompted layer.
    """
    device = text.tower.device
    row_N, label_N = features.training_rows(classes)
    drawn_SN = torch.tensor([draw_images(features, classes, shots, seed) for seed in seeds])
    drawn_X, index_SN = torch.unique(drawn_SN, return_inverse=True)
    row_X = row_N[drawn_X]
    if deep:
        views = view_tokens(text.vision, features.pictures, row_X)
    else:
        views = features.views_NVE[row_X]
    return TrainingSet(
        views_XVE=views.to(device),
        label_X=label_N[drawn_X].to(device),
        index_SN=index_SN,
        names=text.pack([features.class_names[label] for label in classes], n_ctx),
        logit_scale=text.logit_scale,
        shots=shots,
        vision=text.vision if deep else None,
    )


def draw_images(features: TaskFeatures, classes: Sequence[int], shots: int, seed: int) -> list[int]:
    """Draw the shots of a seed, as positions in `features.training_rows(classes)`.

    Shots are drawn from all training images of the task, encoded or not, before some classes are
    left out: the images of a class are the same whichever other classes take part.

    Raises:
        ValueError: if an image that is drawn is not encoded.
    """
    labels, wanted = features.training_labels, set(classes)
    drawn = draw_shots(labels, shots, random.Random(seed))
    index_N = features.train_index_T[[position for position in drawn if labels[position] in wanted]]
    if missing := int((index_N < 0).sum()):
        raise ValueError(
            f"task {features.name}: {missing} of {len(index_N)} images that seed {seed} draws for "
            f"{shots} shots are not encoded; add {seed} to sweep.seeds or evaluate.seeds, set "
            f"sweep.shots to {shots}, and run `dvc repro features`"
        )
    row_N, _ = features.training_rows(classes)
    drawn_N: list[int] = torch.searchsorted(row_N, index_N).tolist()
    return drawn_N


def measure_prompts(
    text: TextSide,
    features: TaskFeatures,
    prompts: Sequence[StoredPrompt],
    split: str,
    classes: Sequence[int],
    domains: Sequence[str],
) -> list[float]:
    """Return the accuracy of each stored prompt on the images of `classes`, in [0, 1]."""
    row_n, _ = features.rows(split, classes, domains)
    return measure_on(text, features, prompts, [row_n] * len(prompts), classes)


def measure_on(
    text: TextSide,
    features: TaskFeatures,
    prompts: Sequence[StoredPrompt],
    rows: Sequence[Tensor],
    classes: Sequence[int],
) -> list[float]:
    """Return the accuracy of each stored prompt on its own images, in [0, 1].

    Args:
        text: the text side.
        features: of the task.
        prompts: of one kind.
        rows: for each prompt, positions in `features.features_NE`; images of other classes are
            left out.
        classes: that compete.

    Raises:
        ArithmeticError: if a class embedding is not finite.
    """
    names = text.pack([features.class_names[label] for label in classes], prompts[0].n_ctx)
    class_SKE = text.class_embeddings(prompts, names).cpu()
    if not class_SKE.isfinite().all():
        raise ArithmeticError("a class embedding is not finite")
    vision_SJMW = text.inputs(prompts).vision_JMW
    accuracies = []
    for place, (row_n, class_KE) in enumerate(zip(rows, class_SKE, strict=True)):
        keep, label_n = renumber(features.label_N[row_n], classes)
        if vision_SJMW is None:
            image_nE = features.features_NE[row_n[keep]]
        else:
            own_SJMW = vision_SJMW[place : place + 1]
            image_nE = encode_beside(text.vision, features.pictures, row_n[keep], own_SJMW)[0]
        accuracies.append(accuracy(image_nE, class_KE, label_n))
    return accuracies
