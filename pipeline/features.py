"""Image features of a task, encoded once through the frozen image tower.

Shapes: N images, V views, E joint embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from pipeline.config import Config
from pipeline.images import TaskPictures

SPLITS = ("train", "val", "test")


class FeaturesConfig(Config):
    """How images become features."""

    views: int = Field(ge=0)
    """Random crops cached for every training image, beside its plain view."""
    crop_scale: tuple[float, float]
    """Area of a random crop, relative to the image."""
    flip: bool
    """Whether crops are mirrored at random."""
    batch_size: int = Field(ge=1)
    workers: int = Field(ge=0)
    """Processes that decode images."""
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class TaskFeatures:
    """Everything a fit or a measurement needs to know about a task's images.

    Attributes:
        name: of the task.
        template: the zero-shot caption, for instance "a photo of a {}."
        class_names: in label order.
        domains: in the order of `domain_N`.
        features_NE: unit features of all images.
        label_N, split_N, domain_N: int64; `split_N` indexes `SPLITS`.
        views_NVE: unit features of the training images alone, in order, plain view first.
        fingerprint: of the backbone that made the features.
        data_hash: SHA-256 of the manifest.
        pictures: what the features were made of; only where prompts stand in the image tower.
    """

    name: str
    template: str
    class_names: tuple[str, ...]
    domains: tuple[str, ...]
    features_NE: Tensor
    label_N: Tensor
    split_N: Tensor
    domain_N: Tensor
    views_NVE: Tensor
    fingerprint: str
    data_hash: str
    pictures: TaskPictures | None = None

    @property
    def shot_domains(self) -> list[str]:
        """The domains that training images come from; the others are held out."""
        train = self.domain_N[self.split_N == SPLITS.index("train")]
        return [self.domains[index] for index in sorted(set(train.tolist()))]

    @property
    def training_labels(self) -> list[int]:
        """The labels of the training images, in order."""
        labels: list[int] = self.label_N[self.split_N == SPLITS.index("train")].tolist()
        return labels

    def select(
        self, split: str, classes: Sequence[int], domains: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return features `[n, E]` and labels, renumbered by position in `classes`."""
        row_n, label_n = self.rows(split, classes, domains)
        return self.features_NE[row_n], label_n

    def rows(
        self, split: str, classes: Sequence[int], domains: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the positions of images, and labels renumbered by position in `classes`."""
        wanted = torch.tensor([self.domains.index(domain) for domain in domains])
        mask_N = (self.split_N == SPLITS.index(split)) & torch.isin(self.domain_N, wanted)
        keep, label_n = renumber(self.label_N[mask_N], classes)
        return mask_N.nonzero()[:, 0][keep], label_n

    def training_rows(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return positions among the training images, and labels renumbered by `classes`."""
        keep, label_n = renumber(self.label_N[self.split_N == SPLITS.index("train")], classes)
        return keep.nonzero()[:, 0], label_n


def renumber(label_N: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return which labels are among `classes`, and those labels as positions in it."""
    position = torch.full((max([-1, *classes, *label_N.tolist()]) + 1,), -1)
    position[torch.tensor(classes, dtype=torch.long)] = torch.arange(len(classes))
    renumbered_N = position[label_N]
    return renumbered_N >= 0, renumbered_N[renumbered_N >= 0]
