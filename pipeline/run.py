"""Configurations on one task: fit all of them and their seeds in one pass, then measure.

Shapes: S seeds, K classes, M context tokens, N images, E joint embedding width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import report_all
from pipeline.features import TaskFeatures
from pipeline.few_shot import draw_shots
from pipeline.metrics import accuracy
from pipeline.prompts import Prompt, PromptConfig, init_tokens, merge
from pipeline.stored_prompt import StoredPrompt
from pipeline.train import PromptFit, Replica, TrainConfig, TrainingSet
from pipeline.whole_tower import AnyNames, Tower


@dataclass(frozen=True)
class TextSide:
    """All that a fit needs of a backbone; it travels to workers as one object.

    Attributes:
        tower: the frozen text tower.
        logit_scale: factor on cosine similarities.
        init_words: token ids of the words that start a context.
        name_tokens: token ids of every class name, full stop included.
    """

    tower: Tower
    logit_scale: float
    init_words: list[int]
    name_tokens: dict[str, list[int]]

    def init_MD(self, n_ctx: int) -> Tensor:
        """Return the embeddings that start a context of M tokens."""
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

    @torch.no_grad()
    def class_embeddings(self, prompts: Sequence[StoredPrompt], names: AnyNames) -> Tensor:
        """Return the class embeddings `[S, K, E]` of stored prompts."""
        init_MD = self.init_MD(names.n_ctx)
        context_SMD = torch.stack(
            [
                merge(init_MD, {k: v.to(init_MD.device) for k, v in prompt.values().items()})
                for prompt in prompts
            ]
        )
        embeddings: Tensor = self.tower(context_SMD, names)
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
            ValueError: if the points differ in n_ctx.
        """
        found = sorted({point.prompt.n_ctx for point in points})
        if len(found) != 1:
            raise ValueError(
                f"n_ctx: found {found}; allowed: one value for all that train together"
            )
        self.text, self.features, self.n_ctx = text, features, found[0]
        device = text.tower.device
        views_NVE, label_N = features.training_views(classes)
        drawn = [draw_images(features, classes, shots, point.seed) for point in points]
        init_MD = text.init_MD(self.n_ctx)
        self.replicas = [
            Replica(Prompt(point.prompt, init_MD, point.seed), point.lr, point.seed)
            for point in points
        ]
        names = [features.class_names[label] for label in classes]
        data = TrainingSet(
            views_XVE=views_NVE.to(device),
            label_X=label_N.to(device),
            index_SN=torch.tensor(drawn),
            names=text.pack(names, self.n_ctx),
            logit_scale=text.logit_scale,
            shots=shots,
            template_KE=text.template_embeddings(names) if train.kg_weight else None,
        )
        self.fit = PromptFit(text.tower, data, self.replicas, train)

    def stored(self) -> list[StoredPrompt]:
        """Return the prompts of all points as they would be stored now."""
        return [replica.prompt.store() for replica in self.replicas]

    def measure(self, split: str, classes: Sequence[int], domains: Sequence[str]) -> list[float]:
        """Return each point's accuracy on the images of some classes, told apart from each other.

        The stored form of the prompt is measured, since it is the one that is kept.
        """
        return measure_prompts(self.text, self.features, self.stored(), split, classes, domains)


def draw_images(features: TaskFeatures, classes: Sequence[int], shots: int, seed: int) -> list[int]:
    """Draw the shots of a seed, as positions in `features.training_views(classes)`.

    The draw is from all classes of the task, before some of them are left out: the images of a
    class are the same whichever other classes take part.
    """
    labels = features.training_labels
    chosen = [position for position, label in enumerate(labels) if label in set(classes)]
    place = {position: index for index, position in enumerate(chosen)}
    drawn = draw_shots(labels, shots, random.Random(seed))
    return [place[position] for position in drawn if position in place]


def measure_prompts(
    text: TextSide,
    features: TaskFeatures,
    prompts: Sequence[StoredPrompt],
    split: str,
    classes: Sequence[int],
    domains: Sequence[str],
) -> list[float]:
    """Return the accuracy of each stored prompt on the images of `classes`, in [0, 1]."""
    image_NE, label_N = features.select(split, classes, domains)
    names = text.pack([features.class_names[label] for label in classes], prompts[0].n_ctx)
    class_SKE = text.class_embeddings(prompts, names).cpu()
    return [accuracy(image_NE, class_KE, label_N) for class_KE in class_SKE]
