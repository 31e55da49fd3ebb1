"""Turn the images of a manifest into features.

Shapes: N images, V views, H = W pixels, E joint embedding width.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from pipeline.backbone import Backbone, Transform, crop_transform
from pipeline.errors import report_all
from pipeline.features import SPLITS, FeaturesConfig, TaskFeatures
from pipeline.images import TaskPictures
from pipeline.manifest import Manifest


class Pictures(Dataset[Tensor | str]):
    """The transformed pictures of some manifest rows; an unreadable one is its error's text."""

    def __init__(
        self, images: list[dict[str, Any]], transform: Transform, seed: int | None
    ) -> None:
        """Keep the images; with a seed, every picture draws its own random crop from it."""
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        """Return `[3, H, W]`, or why there is none."""
        image = self.images[index]
        try:
            source = io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]
            with Image.open(source) as picture:
                if self.seed is None:
                    return self.transform(picture)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed * 1_000_003 + index)
                    return self.transform(picture)
        except UnidentifiedImageError:
            return f"{image['path']}: not an image"
        # Pillow calls a broken PNG a SyntaxError
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{image['path']}: {error}"


def collate(items: list[Tensor | str]) -> tuple[Tensor | None, list[str]]:
    """Stack the readable pictures of a batch, in the worker: one tensor travels, not one each."""
    readable = [item for item in items if not isinstance(item, str)]
    problems = [item for item in items if isinstance(item, str)]
    return torch.stack(readable) if readable else None, problems


def encode_pictures(
    backbone: Backbone,
    pictures: Dataset[Tensor | str],
    config: FeaturesConfig,
    progress: Callable[[int], Any],
) -> Tensor:
    """Return unit features `[N, E]`.

    Raises:
        ValueError: naming every picture that cannot be read, after all were tried.
    """
    loader = DataLoader(
        pictures,
        config.batch_size,
        num_workers=config.workers,
        collate_fn=collate,
        timeout=300 if config.workers else 0,
    )
    parts: list[Tensor] = []
    problems: list[str] = []
    for pictures_N3HW, unreadable in loader:
        problems += unreadable
        if not problems:
            parts.append(backbone.encode_images(pictures_N3HW))
        progress(len(unreadable) + (0 if pictures_N3HW is None else len(pictures_N3HW)))
    problems = list(dict.fromkeys(problems))  # a training image is read once per view
    report_all(f"{len(problems)} image(s) cannot be read", problems)
    return torch.cat(parts)


def views_of(backbone: Backbone, manifest: Manifest, config: FeaturesConfig) -> list[Pictures]:
    """Return all pictures of a task, plain, and then each random crop of its training images."""
    rows = manifest.rows
    images = rows["image"].tolist()
    train_images = rows.loc[rows["split"] == "train", "image"].tolist()
    crop = crop_transform(backbone, config)
    return [Pictures(images, backbone.transform, None)] + [
        Pictures(train_images, crop, config.seed * 1000 + view) for view in range(config.views)
    ]


def load_pictures(backbone: Backbone, manifest: Manifest, config: FeaturesConfig) -> TaskPictures:
    """Return the pixels that the features of a task are made of.

    Raises:
        ValueError: naming every picture that cannot be read, after all were tried.
    """
    visual = backbone.model.visual.preprocess_cfg
    mean_311, std_311 = (torch.tensor(visual[key])[:, None, None] for key in ("mean", "std"))
    views = views_of(backbone, manifest, config)
    loader: DataLoader[Any] = DataLoader(
        ConcatDataset(views), config.batch_size, num_workers=config.workers, collate_fn=collate
    )
    parts: list[Tensor] = []
    problems: list[str] = []
    for pictures_N3HW, unreadable in loader:
        problems += unreadable
        if not problems:  # the transforms end with x / 255 and the normalization: undo both
            pixels = (pictures_N3HW * std_311 + mean_311) * 255
            parts.append(pixels.round().clamp(0, 255).to(torch.uint8))
    report_all(f"{len(problems)} image(s) cannot be read", list(dict.fromkeys(problems)))
    plain_N3HW, *crops = torch.split(torch.cat(parts), [len(pictures) for pictures in views])
    is_train = torch.tensor((manifest.rows["split"] == "train").to_numpy())
    return TaskPictures(
        pixel_N3HW=plain_N3HW.clone(),
        view_NV3HW=torch.stack([plain_N3HW[is_train], *crops], dim=1),
        mean=tuple(visual["mean"]),
        std=tuple(visual["std"]),
    )


def with_pictures(
    features: TaskFeatures, backbone: Backbone, manifest: Manifest, config: FeaturesConfig
) -> TaskFeatures:
    """Return features with the pixels that they were made of.

    Raises:
        ValueError: naming every picture that cannot be read.
    """
    return replace(features, pictures=load_pictures(backbone, manifest, config))


def encode_task(
    backbone: Backbone,
    manifest: Manifest,
    data_hash: str,
    config: FeaturesConfig,
    progress: Callable[[int], Any] = lambda _: None,
) -> TaskFeatures:
    """Encode all images of a task, and `config.views` random crops of its training images.

    Crops are drawn once and cached: a step of training draws one of an image's views, not a new
    crop as in CoOp's loop.
    """
    rows = manifest.rows
    is_train = (rows["split"] == "train").tolist()
    plain_and_crops = views_of(backbone, manifest, config)
    encoded = encode_pictures(backbone, ConcatDataset(plain_and_crops), config, progress)
    sizes = [len(pictures) for pictures in plain_and_crops]
    features_NE, *crops = torch.split(encoded, sizes)
    views = [features_NE[torch.tensor(is_train)], *crops]
    domains = sorted(set(rows["domain"]))
    return TaskFeatures(
        name=manifest.name,
        template=manifest.template,
        class_names=tuple(manifest.class_names),
        domains=tuple(domains),
        features_NE=features_NE,
        label_N=torch.tensor(rows["label"].to_numpy()),
        split_N=torch.tensor([SPLITS.index(split) for split in rows["split"]]),
        domain_N=torch.tensor([domains.index(domain) for domain in rows["domain"]]),
        views_NVE=torch.stack(views, dim=1),
        fingerprint=backbone.fingerprint,
        data_hash=data_hash,
    )
