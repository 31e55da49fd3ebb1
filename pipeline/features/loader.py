"""The pictures of a manifest as the image tower reads them, decoded by worker processes.

Shapes: X pictures to load.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pipeline.clip.images import ImageEncoder, Transform
from pipeline.core.errors import report_all
from pipeline.data.decode import read_picture
from pipeline.data.manifest import Manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.task import TaskFeatures, TaskPictures

Batch = tuple[Tensor | None, list[str | None]]
"""The readable pictures `[n, 3, H, W]`; and for each of the batch None, or why it has none."""


def crop_transform(encoder: ImageEncoder, scale: tuple[float, float], flip: bool) -> Transform:
    """Return CoOp's augmentation of training images: a random crop, mirrored or not.

    Args:
        encoder: gives the size and the normalization.
        scale: smallest and largest area of a crop, relative to the image.
        flip: whether crops are mirrored at random.
    """
    visual = encoder.preprocessing
    steps: list[nn.Module] = [
        v2.RGB(),
        v2.RandomResizedCrop(visual["size"], scale, interpolation=v2.InterpolationMode.BICUBIC),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(visual["mean"], visual["std"]),
    ]
    if flip:
        steps.insert(2, v2.RandomHorizontalFlip())
    transform: Transform = v2.Compose(steps)
    return transform


class Pictures(Dataset[Tensor | str]):
    """The pictures of a manifest, addressed by (row, view); view 0 is plain, others are crops.

    A crop depends on the seed, the view and the number of training images above the row, so that
    it is the same whichever other pictures are loaded.
    """

    def __init__(self, encoder: ImageEncoder, manifest: Manifest, config: FeaturesConfig) -> None:
        """Store what worker processes need, without weights."""
        self.images = manifest.images
        self.place_N = manifest.in_split("train").cumsum() - 1
        self.plain = encoder.transform
        self.crop = crop_transform(encoder, config.crop_scale, config.flip)
        self.seed = config.seed

    def __getitem__(self, place: tuple[int, int]) -> Tensor | str:
        """Return `[3, H, W]`, or the reason why there is none, with the path."""
        row, view = place
        image: dict[str, Any] = self.images[row].as_py()
        try:
            picture = read_picture(image["path"] if image["bytes"] is None else image["bytes"])
        except ValueError as error:
            return f"{image['path']}: {error}"
        if view == 0:
            return self.plain(picture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.crop_seed(row, view))
            return self.crop(picture)

    def crop_seed(self, row: int, view: int) -> int:
        """Return the seed of a training image's crop."""
        return (self.seed * 1000 + view - 1) * 1_000_003 + int(self.place_N[row])

    def keys(self, place_X2: np.ndarray) -> np.ndarray:
        """Return 64 bits that identify the content of each picture, int64 `[X]`.

        The content of a file is represented by its path, size and time of change. The chance that
        two of a million different pictures share a key is 3e-8.
        """
        return np.array([self.key(row, view) for row, view in place_X2.tolist()], dtype=np.int64)

    def key(self, row: int, view: int) -> int:
        """Return 64 bits that identify the content of a picture."""
        image: dict[str, Any] = self.images[row].as_py()
        content, path = image["bytes"], image["path"]
        if content is None:
            status = os.stat(path) if os.path.exists(path) else None
            about = (status.st_size, status.st_mtime_ns) if status else None
            content = repr((path, about)).encode()
        digest = blake2b(content, digest_size=8)
        digest.update(repr(self.crop_seed(row, view) if view else None).encode())
        return int.from_bytes(digest.digest(), "little", signed=True)


def collate(items: list[Tensor | str]) -> Batch:
    """Stack the readable pictures of a batch, in the worker: one tensor is sent, not one each."""
    readable = [item for item in items if isinstance(item, Tensor)]
    reasons = [item if isinstance(item, str) else None for item in items]
    return torch.stack(readable) if readable else None, reasons


def places(manifest: Manifest, row_N: np.ndarray, views: int) -> np.ndarray:
    """Return (row, view) of all rows plain, then of each random crop of the training rows."""
    train = row_N[manifest.in_split("train")[row_N]]
    runs = [(row_N, 0), *((train, view) for view in range(1, views + 1))]
    return np.concatenate([np.stack([rows, np.full_like(rows, v)], axis=1) for rows, v in runs])


def cut(positions: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut positions into runs of at most `size`."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def load_batches(
    pictures: Pictures, place_X2: np.ndarray, parts: Sequence[np.ndarray], workers: int
) -> Iterator[Batch]:
    """Yield the pictures at `place_X2[part]` for each of some parts, in their order.

    Only a few batches per worker are in memory at once.
    """
    batches = ([(row, view) for row, view in place_X2[part].tolist()] for part in parts)
    loader: DataLoader[Any] = DataLoader(
        pictures,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        timeout=300 if workers else 0,
    )
    yield from loader


def load_pictures(
    encoder: ImageEncoder, manifest: Manifest, features: TaskFeatures, config: FeaturesConfig
) -> TaskPictures:
    """Return the pixels behind the features of a task.

    Raises:
        ValueError: naming every picture that cannot be read, after all were tried.
    """
    visual = encoder.preprocessing
    mean_311, std_311 = (torch.tensor(visual[key])[:, None, None] for key in ("mean", "std"))
    row_N = features.row_N.numpy()
    place_X2 = places(manifest, row_N, config.views)
    batches = cut(np.arange(len(place_X2)), config.batch_size)
    parts: list[Tensor] = []
    problems: list[str] = []
    pictures = Pictures(encoder, manifest, config)
    for pictures_N3HW, reasons in load_batches(pictures, place_X2, batches, config.n_workers):
        problems += [reason for reason in reasons if reason]
        if pictures_N3HW is not None:  # transforms end with x / 255 and normalization: undo both
            pixels = (pictures_N3HW * std_311 + mean_311) * 255
            parts.append(pixels.round().clamp(0, 255).to(torch.uint8))
    report_all(f"{len(problems)} image(s) cannot be read", list(dict.fromkeys(problems)))
    is_train = torch.from_numpy(manifest.in_split("train")[row_N])
    plain_N3HW, crop_X3HW = torch.cat(parts).tensor_split([len(row_N)])
    crop_VN3HW = crop_X3HW.view(config.views, int(is_train.sum()), *plain_N3HW.shape[1:])
    return TaskPictures(
        pixel_N3HW=plain_N3HW.clone(),
        view_NV3HW=torch.cat([plain_N3HW[is_train][None], crop_VN3HW]).movedim(0, 1).contiguous(),
        mean=tuple(visual["mean"]),
        std=tuple(visual["std"]),
    )


def with_pictures(
    features: TaskFeatures, encoder: ImageEncoder, manifest: Manifest, config: FeaturesConfig
) -> TaskFeatures:
    """Return features together with the pixels behind them.

    Raises:
        ValueError: naming every picture that cannot be read.
    """
    return replace(features, pictures=load_pictures(encoder, manifest, features, config))
