"""The 15 data sets of the CoOp benchmark, in the folders that users of CoOp already have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import report_all
from pipeline.data.config import CoopConfig
from pipeline.data.datasets.coop_catalog import DATA_SETS, DataSet
from pipeline.data.datasets.coop_download import DOWNLOADS, GONE, fetch, torchvision_download
from pipeline.data.datasets.coop_splits import Splits, all_files, make_split
from pipeline.data.datasets.custom import spoken
from pipeline.data.datasets.files import find_each
from pipeline.data.manifest import ONE_DOMAIN, Manifest, build_rows


def find(
    config: CoopConfig,
    tasks: Sequence[str],
    make: Callable[[str, Path], object] = torchvision_download,
) -> dict[str, str]:
    """Return a hash of every data set's images, labels and splits, as its files list them.

    Images that are missing are downloaded first if `config.download`. Their pixels are not read:
    an image that is replaced by another of the same name goes unnoticed.

    Args:
        config: where the data lie.
        tasks: names of data sets.
        make: downloads a data set of torchvision into a folder.

    Raises:
        ValueError: one message with all that is missing in all of these data sets, images
            included, and the layout that is expected.
    """
    unknown = [repr(task) for task in tasks if task not in DATA_SETS]
    report_all(f"params.yaml: tasks: unknown; expected names of {list(DATA_SETS)}", unknown)
    layout = "that of CoOp's DATASETS.md"
    return find_each(lambda task: find_one(config, task, make), tasks, config.root, layout)


def find_one(config: CoopConfig, task: str, make: Callable[[str, Path], object]) -> str:
    """Return a hash of one data set.

    Raises:
        ValueError: saying what is missing of it, and what it should hold.
    """
    data = DATA_SETS[task]
    folder = Path(config.root) / data.folder
    if config.download and task in DOWNLOADS and not (folder / data.images).is_dir():
        fetch(DOWNLOADS[task], folder, make)
    optional = data.files if data.class_of else ()
    wanted = [data.images, *data.files]
    missing = [n for n in wanted if n not in optional and not (folder / n).exists()]
    if missing:
        hint = GONE.get(task, "bring a copy: torchvision has none")
        if task in DOWNLOADS:
            hint = "" if config.download else "prepare.coop.download: true gets the images"
        raise ValueError(
            f"missing {', '.join(str(folder / name) for name in missing)}; expected in {folder}: "
            f"{', '.join(wanted)}{hint and f'; {hint}'}"
        )
    splits = read_splits(config, task)
    empty = [split for split in data.splits if not splits[split]]
    if empty:
        raise ValueError(f"no {' and no '.join(empty)} images in {folder / data.images}")
    if not data.by_folders:
        present = all_files(folder / data.images)
        paths = [entry.path for entries in splits.values() for entry in entries]
        absent = [path for path in paths if path not in present]
        if absent:
            raise ValueError(
                f"missing {len(absent)} of {len(paths)} images, for instance "
                f"{folder / data.images / absent[0]}"
            )
    digest = hashlib.sha256(f"published split {has_split(config, data)}".encode())
    for split, entries in sorted(splits.items()):
        for entry in entries:
            digest.update(f"{split} {entry!r}".encode())
    return digest.hexdigest()


def build(config: CoopConfig, task: str) -> Manifest:
    """Build the manifest of a data set; images are named by their path below the root."""
    data, splits = DATA_SETS[task], read_splits(config, task)
    rows = build_rows(
        [
            (image_of(data, entry.path), entry.label, spoken(entry.class_name), ONE_DOMAIN, split)
            for split in data.splits
            for entry in splits[split]
        ]
    )
    notes = notes_of(data, splits, None if has_split(config, data) else config.seed)
    return Manifest(task, data.template, rows, data.splits, notes)


def notes_of(data: DataSet, splits: Splits, seed: int | None) -> dict[str, Any]:
    """Return whether results are comparable with published ones, and if not, why.

    Args:
        data: the data set.
        splits: its images.
        seed: of the split, if it was made here.
    """
    sizes = (
        len({entry.label for entries in splits.values() for entry in entries}),
        len(splits.get("train", [])),
        len(splits["test"]),
    )
    reason = None
    if seed is not None:
        reason = f"no {data.files[0]}: a split of our own, 50/20/30 by class, seed {seed}"
    elif sizes != data.published:
        reason = "{} classes, {} training and {} test images; published are {}, {} and {}".format(
            *sizes, *data.published
        )
    notes: dict[str, Any] = {"source": "coop", "comparable": reason is None}
    notes |= {"reason": reason} if reason else {}
    return notes | ({"splits_made": list(splits)} if seed is not None else {})


def read_splits(config: CoopConfig, task: str) -> Splits:
    """Read the split of a data set, or make one where its file is missing."""
    data = DATA_SETS[task]
    folder = Path(config.root) / data.folder
    if data.class_of and not has_split(config, data):
        return make_split(folder / data.images, data.class_of, data.renamed, config.seed)
    return data.read(folder, folder / data.images)


def has_split(config: CoopConfig, data: DataSet) -> bool:
    """Return whether the published split is there."""
    return all((Path(config.root) / data.folder / file).exists() for file in data.files)


def image_of(data: DataSet, path: str) -> dict[str, Any]:
    """Return an image as a manifest names it: without bytes, with its path below the root."""
    return {"bytes": None, "path": PurePosixPath(data.folder, data.images, path).as_posix()}
