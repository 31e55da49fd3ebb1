"""Image features of a task, encoded once through the frozen image tower.

Shapes: N encoded images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.data.manifest import SPLITS


@dataclass(frozen=True)
class TaskPictures:
    """The pictures behind a task's features, in the same order, as the image tower reads them.

    Attributes:
        pixel_N3HW: uint8, resized and cropped, not yet normalized.
        view_NV3HW: uint8, the training images alone: plain view first, then the crops behind the
            features.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """

    pixel_N3HW: Tensor
    view_NV3HW: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalized(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Return pixels as the tower reads them, float32, `[..., 3, H, W]`."""
        mean_311, std_311 = (
            torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std)
        )
        return (pixels.to(device).float() / 255 - mean_311) / std_311


@dataclass(frozen=True)
class TaskFeatures:
    """A task's images, as fits and measurements need them.

    Attributes:
        name: of the task.
        template: the zero-shot caption, for instance "a photo of a {}."
        class_names: in label order.
        domains: in the order of `domain_N`.
        features_NE: unit features of the encoded images: all of validation and test, and the
            training images that some draw contains.
        row_N, label_N, split_N, domain_N: int64; `row_N` is the row of the manifest, `split_N`
            indexes `SPLITS`.
        views_NVE: unit features of the encoded training images alone, in order, plain view first.
        train_label_T: int64, of all training images, encoded or not: shots are drawn from them.
        train_index_T: int64, their positions in `views_NVE`; -1 if not encoded.
        fingerprint: of the backbone that made the features.
        data_hash: SHA-256 of the manifest.
        settings: of the encoding; see `FeaturesConfig.content`.
        skipped: paths and reasons of images that cannot be read and are ignored.
        pictures: behind the features; loaded only for prompts in the image tower.
    """

    name: str
    template: str
    class_names: tuple[str, ...]
    domains: tuple[str, ...]
    features_NE: Tensor
    row_N: Tensor
    label_N: Tensor
    split_N: Tensor
    domain_N: Tensor
    views_NVE: Tensor
    train_label_T: Tensor
    train_index_T: Tensor
    fingerprint: str
    data_hash: str
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    pictures: TaskPictures | None = None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of everything but `pictures`: equal for equal features of the same origin."""
        digest = hashlib.sha256()
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        del values["pictures"]
        for name, value in values.items():
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
            else:
                digest.update(f"{name} {json.dumps(value, sort_keys=True)}\n".encode())
        return digest.hexdigest()

    @property
    def shot_domains(self) -> list[str]:
        """The domains of (encoded) training images; the others are held out."""
        train = self.domain_N[self.in_split("train")]
        return [self.domains[index] for index in sorted(set(train.tolist()))]

    @property
    def training_labels(self) -> list[int]:
        """The labels of all training images, encoded or not, in order."""
        labels: list[int] = self.train_label_T.tolist()
        return labels

    def in_split(self, split: str) -> Tensor:
        """Return which images belong to a split, bool `[N]`."""
        return self.split_N == SPLITS.index(split)

    def select(
        self, split: str, classes: Sequence[int], domains: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return features `[n, E]` and labels, renumbered by position in `classes`."""
        row_n, label_n = self.rows(split, classes, domains)
        return self.features_NE[row_n], label_n

    def rows(
        self, split: str, classes: Sequence[int], domains: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the positions of images, and labels by position in `classes`; both `[n]`."""
        wanted = torch.tensor([self.domains.index(domain) for domain in domains])
        mask_N = self.in_split(split) & torch.isin(self.domain_N, wanted)
        keep, label_n = renumber(self.label_N[mask_N], classes)
        return mask_N.nonzero()[:, 0][keep], label_n

    def training_rows(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return positions `[n]` in `views_NVE`, and labels `[n]` by position in `classes`."""
        keep, label_n = renumber(self.label_N[self.in_split("train")], classes)
        return keep.nonzero()[:, 0], label_n


def renumber(label_N: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return which labels are among `classes`, `[N]`, and those as positions in it, `[n]`."""
    position = torch.full((max([-1, *classes, *label_N.tolist()]) + 1,), -1)
    position[torch.tensor(classes, dtype=torch.long)] = torch.arange(len(classes))
    renumbered_N = position[label_N]
    return renumbered_N >= 0, renumbered_N[renumbered_N >= 0]
