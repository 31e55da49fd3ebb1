"""Configurations on one task: fit all of them and their seeds in one pass, then measure.

Shapes: S seeds, K classes, M context tokens, N images, E joint embedding width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.text.huggingface import AnyNames, Tower
from pipeline.clip.text.tower import TextTower
from pipeline.clip.vision_tower import VisionTower
from pipeline.core.errors import report_all
from pipeline.data.sampling import draw_shots
from pipeline.features.pixels import encode_beside
from pipeline.features.task import TaskFeatures, renumber
from pipeline.prompts.coupling import Inputs, couple, stack
from pipeline.prompts.prompt import Prompt, PromptConfig, init_tokens, merge
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.fit import PromptFit, Replica, TrainConfig, TrainingSet
from pipeline.training.metrics import accuracy
from pipeline.training.validation import Validation, validation_rows


@dataclass(frozen=True)
class TextSide:
    """All that a fit needs of a backbone; it travels to workers as one object.

    Attributes:
        tower: the frozen text tower.
        logit_scale: factor on cosine similarities.
        init_words: token ids of the words that start a context.
        name_tokens: token ids of every class name, full stop included.
        vision: the frozen image tower, where prompts are to stand in it.
    """

    tower: Tower
    logit_scale: float
    init_words: list[int]
    name_tokens: dict[str, list[int]]
    vision: VisionTower | None = None

    def to(self, device: torch.device | str) -> None:
        """Move the towers."""
        self.tower.to(device)
        if self.vision is not None:
            self.vision.to(device)

    def check_depth(self, depth: int) -> None:
        """Refuse prompts in more layers than both towers have.

        Raises:
            ValueError: naming the depth and what is allowed.
        """
        n_text = len(self.tower.blocks) if isinstance(self.tower, TextTower) else 0
        n_vision = len(self.vision.blocks) if self.vision is not None else 0
        if depth > min(n_text, n_vision):
            raise ValueError(
                f"prompt.depth {depth}: allowed are 0 to {min(n_text, n_vision)}; the text tower "
                f"takes prompts in {n_text} layers, the image tower in {n_vision}"
            )

    def init_MD(self, n_ctx: int) -> Tensor:
        """Return the embeddings `[M, D]` that start a context of M tokens."""
        return self.tower.embed(init_tokens(self.init_words, n_ctx))

    def pack(self, class_names: Sequence[str], n_ctx: int) -> AnyNames:
        """Pack class names behind a context of M tokens."""
        return self.tower.pack([self.name_tokens[name] for name in class_names], n_ctx)

    def check_names(self, n_ctx: int) -> None:
        """Refuse class names that do not fit behind a context of M tokens.

        Raises:
            ValueError: naming every such class.
        """
        room = self.tower.room(n_ctx)
        problems = [
            f"{name!r}: {len(tokens)} tokens, allowed are {room}"
            for name, tokens in self.name_tokens.items()
            if len(tokens) > room
        ]
        report_all(
            f"class names too long for n_ctx {n_ctx} and a context length of "
            f"{self.tower.context_length}",
            problems,
        )

    @torch.no_grad()
    def template_embeddings(self, class_names: Sequence[str]) -> Tensor:
        """Return the unit class embeddings `[K, E]` of the template's words alone."""
        n_ctx = len(self.init_words)
        class_SKE = self.tower(self.init_MD(n_ctx)[None], self.pack(class_names, n_ctx))
        return F.normalize(class_SKE[0], dim=-1)

    def inputs(self, prompts: Sequence[StoredPrompt]) -> Inputs:
        """Return what the towers read of S stored prompts of one kind."""
        init_MD = self.init_MD(prompts[0].n_ctx)
        found = []
        for prompt in prompts:
            values = {name: value.to(init_MD.device) for name, value in prompt.values().items()}
            found.append(couple(merge(init_MD, values), values))
        return stack(found)

    @torch.no_grad()
    def class_embeddings(self, prompts: Sequence[StoredPrompt], names: AnyNames) -> Tensor:
        """Return the class embeddings `[S, K, E]` of stored prompts."""
        inputs = self.inputs(prompts)
        embeddings: Tensor = self.tower(inputs.context_MD, names, inputs.deep_JMD)
        return embeddings


@dataclass(frozen=True)
class Point:
    """One prompt to fit: where it stands in the family, its peak learning rate, its seed."""

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
        """Deal every point's shots and build its prompt; nothing is trained yet.

        Raises:
            ValueError: if the points differ in n_ctx or depth, or are deeper than the towers.
        """
        found = sorted({(point.prompt.n_ctx, point.prompt.depth) for point in points})
        if len(found) != 1:
            raise ValueError(
                f"n_ctx and depth: found {found}; allowed: one of each for all that train together"
            )
        self.text, self.features, self.shots = text, features, shots
        self.n_ctx, depth = found[0]
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
        """Return the prompts of all points as they would be stored now."""
        return [replica.prompt.store() for replica in self.replicas]

    def measure(self, split: str, classes: Sequence[int], domains: Sequence[str]) -> list[float]:
        """Return each point's accuracy on the images of some classes, told apart from each other.

        The stored form of the prompt is measured, since it is the one that is kept.
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
    """Deal the shots of every seed; only images that are dealt are kept.

    With prompts in the image tower (`deep`), an image is what enters their first layer.
    """
    device = text.tower.device
    row_N, label_N = features.training_rows(classes)
    drawn_SN = torch.tensor([draw_images(features, classes, shots, seed) for seed in seeds])
    dealt_X, index_SN = torch.unique(drawn_SN, return_inverse=True)
    rows_X = row_N[dealt_X]
    vision = None
    if deep:
        assert text.vision is not None
        assert features.pictures is not None, "prompts in the image tower need pictures"
        vision = text.vision
        views = features.pictures.view_tokens(vision, rows_X)
    else:
        views = features.views_NVE[rows_X]
    return TrainingSet(
        views_XVE=views.to(device),
        label_X=label_N[dealt_X].to(device),
        index_SN=index_SN,
        names=text.pack([features.class_names[label] for label in classes], n_ctx),
        logit_scale=text.logit_scale,
        shots=shots,
        vision=vision,
    )


def draw_images(features: TaskFeatures, classes: Sequence[int], shots: int, seed: int) -> list[int]:
    """Draw the shots of a seed, as positions in `features.training_rows(classes)`.

    The draw is from all training images of the task, encoded or not, and before some classes are
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
        classes: to tell apart.

    Raises:
        ArithmeticError: if a class embedding is not finite; the nearest class then means nothing.
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
            assert text.vision is not None
            assert features.pictures is not None, "prompts in the image tower need pictures"
            own_SJMW = vision_SJMW[place : place + 1]
            image_nE = encode_beside(text.vision, features.pictures, row_n[keep], own_SJMW)[0]
        accuracies.append(accuracy(image_nE, class_KE, label_n))
    return accuracies
