"""Turn the images of a manifest into features.

Shapes: X pictures to encode, that is images plain and their crops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.clip.images import ImageEncoder
from pipeline.core.errors import report_all
from pipeline.core.hashes import value_hash
from pipeline.data.manifest import SPLITS, Manifest
from pipeline.data.sampling import Draws
from pipeline.features.config import FeaturesConfig
from pipeline.features.loader import Pictures, cut, load_batches, places
from pipeline.features.shards import SIZE, Encoded, restore, save_shard
from pipeline.features.task import TaskFeatures

LISTED = 1000
"""Images that an error lists at most."""
Progress = Callable[[int], Any]


def encode_task(
    encoder: ImageEncoder,
    manifest: Manifest,
    data_hash: str,
    config: FeaturesConfig,
    progress: Progress = lambda _: None,
    draws: Draws | None = None,
    folder: Path | None = None,
) -> TaskFeatures:
    """Encode a task's images, and `config.views` random crops of each training image.

    Crops are drawn once and cached: a step of training draws one of an image's views, not a new
    crop as in CoOp's loop. Only those training images are encoded that `draws` contain; a few
    batches of pictures are in memory at a time.

    An image that cannot be read is an error (`strict`), or it is left out as if the manifest did
    not have it (`lenient`): shots are drawn from the others, and what this adds is encoded too.

    Args:
        encoder: the frozen model.
        manifest: the task.
        data_hash: of the manifest.
        config: views, crops, batches, and how to treat images that cannot be read.
        progress: called with the number of pictures that were processed since the last call.
        draws: the draws that the features serve; None encodes all training images.
        folder: of intermediate results, from which the next run resumes. The caller removes it
            once the features are saved. None saves nothing on the way.

    Raises:
        ValueError: naming every image that cannot be read, after all were tried; or, if they are
            left out, every class that has no image left in a split.
    """
    pictures = Pictures(encoder, manifest, config)
    if folder is not None:
        folder = folder / settings_hash(encoder, config)
    bad: dict[int, str] = {}
    while True:  # lenient: where images are left out, others are drawn
        chosen_N = manifest.chosen_rows(draws, bad)
        place_X2 = places(manifest, chosen_N, config.views)
        advance = (lambda _: None) if bad else progress
        features_XE, reasons = encode_pictures(encoder, pictures, place_X2, config, advance, folder)
        bad |= {int(place_X2[x, 0]): reason for x, reason in reasons.items()}
        if config.on_bad_image == "strict":
            report_all(bad_title(manifest, bad), list(bad.values()), LISTED)
        if not reasons:
            break
    check_classes(manifest, bad)
    return assemble(encoder, manifest, data_hash, config, features_XE, chosen_N, bad)


def settings_hash(encoder: ImageEncoder, config: FeaturesConfig) -> str:
    """Return a hash of everything but the picture that its features depend on."""
    preprocess = encoder.preprocessing
    return value_hash([encoder.fingerprint, preprocess, config.crop_scale, config.flip])[:16]


def bad_title(manifest: Manifest, bad: dict[int, str]) -> str:
    """Say that images cannot be read, and what to do."""
    return (
        f"task {manifest.name}: {len(bad)} image(s) cannot be read; fix them or leave them out "
        "(features.on_bad_image: lenient); what was encoded is kept"
    )


def check_classes(manifest: Manifest, bad: Collection[int]) -> None:
    """Refuse to leave out all images of a class.

    Raises:
        ValueError: naming every class that has no image left in a split.
    """
    rows, names = manifest.rows, manifest.class_names
    left = rows.iloc[manifest.chosen_rows(None, bad)]
    problems = [
        f"class {names[label]!r} has no {split} image left"
        for split in SPLITS
        for label in sorted(
            set(rows.loc[rows["split"] == split, "label"])
            - set(left.loc[left["split"] == split, "label"])
        )
    ]
    report_all(f"task {manifest.name}: too many images cannot be read", problems)


def encode_pictures(
    encoder: ImageEncoder,
    pictures: Pictures,
    place_X2: np.ndarray,
    config: FeaturesConfig,
    progress: Progress,
    folder: Path | None,
) -> tuple[Tensor, dict[int, str]]:
    """Encode the pictures at some places, except those whose features are in the folder.

    Returns:
        Unit features `[X, E]`, zero where a picture cannot be read, and the reasons by position.
    """
    encoded, reasons = Encoded(len(place_X2)), dict[int, str]()
    key_X = pictures.keys(place_X2) if folder else np.empty(0)
    if folder:
        restore(folder, key_X, encoded)
        progress(int(encoded.done_X.sum()))
    size = max(1, SIZE // config.batch_size) * config.batch_size  # batches are as without shards
    shards = [cut(shard, config.batch_size) for shard in cut(np.flatnonzero(~encoded.done_X), size)]
    batches = load_batches(pictures, place_X2, list(chain(*shards)), config.n_workers)
    for shard in shards:
        for at_n in shard:
            pictures_N3HW, problems = next(batches)
            good = np.array([problem is None for problem in problems])
            if pictures_N3HW is not None:
                encoded.put(at_n[good], encoder.encode_images(pictures_N3HW))
            reasons |= {int(x): why for x, why in zip(at_n, problems, strict=True) if why}
            progress(len(at_n))
        if folder:
            at_n = np.concatenate(shard)
            at_n = at_n[encoded.done_X[at_n]]
            save_shard(folder, key_X[at_n], encoded.features_XE[torch.from_numpy(at_n)])
    return encoded.features_XE, reasons


def assemble(
    encoder: ImageEncoder,
    manifest: Manifest,
    data_hash: str,
    config: FeaturesConfig,
    features_XE: Tensor,
    row_N: np.ndarray,
    bad: dict[int, str],
) -> TaskFeatures:
    """Join the features of `places` with what the manifest says about the images.

    Args:
        encoder: that made the features.
        manifest: the task.
        data_hash: of the manifest.
        config: of the encoding; each training image has `config.views` crops.
        features_XE: all images plain, then the training images once for each crop.
        row_N: of the encoded images.
        bad: rows that are left out, with the reasons.
    """
    train_N, rows = manifest.in_split("train")[row_N], manifest.rows.iloc[row_N]
    plain_NE, crops_XE = features_XE[: len(row_N)], features_XE[len(row_N) :]
    crops_VNE = crops_XE.view(config.views, int(train_N.sum()), crops_XE.shape[1])
    place_N = np.full(len(manifest.rows), -1)
    place_N[row_N[train_N]] = np.arange(train_N.sum())
    pool_T = np.setdiff1d(np.flatnonzero(manifest.in_split("train")), list(bad))
    domains = sorted(set(manifest.rows["domain"]))
    return TaskFeatures(
        name=manifest.name,
        template=manifest.template,
        class_names=tuple(manifest.class_names),
        domains=tuple(domains),
        features_NE=plain_NE,
        row_N=torch.from_numpy(row_N),
        label_N=torch.tensor(rows["label"].to_numpy()),
        split_N=torch.tensor([SPLITS.index(split) for split in rows["split"]]),
        domain_N=torch.tensor([domains.index(domain) for domain in rows["domain"]]),
        views_NVE=torch.cat([plain_NE[train_N][None], crops_VNE]).movedim(0, 1).contiguous(),
        train_label_T=torch.tensor(manifest.rows["label"].to_numpy()[pool_T]),
        train_index_T=torch.from_numpy(place_N[pool_T]),
        fingerprint=encoder.fingerprint,
        data_hash=data_hash,
        settings=config.content,
        skipped=tuple(bad[row] for row in sorted(bad)),
    )
