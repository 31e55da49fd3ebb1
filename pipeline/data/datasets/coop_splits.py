"""Readers of the CoOp benchmark: which image is of which class, in which split.

A reader gets the data set's folder and the folder of its images, and returns the images of each
split in the public order, with paths relative to the images. Rules are those of CoOp's code
(arXiv 2109.01134); where it takes folders in the file system's order, they are sorted here.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.core.errors import report_all
from pipeline.data.config import Shares
from pipeline.data.datasets.custom import split_counts
from pipeline.data.datasets.files import find_files, find_folders
from pipeline.data.manifest import SPLITS

NAMES = "classnames.txt"
PUBLIC_SHARES = Shares(train=0.5, val=0.2, test=0.3)
"""What CoOp's code takes where it splits a data set itself."""


class Entry(NamedTuple):
    """One image: its path below the images, its label, its class name as it is written there."""

    path: str
    label: int
    class_name: str


Splits = dict[str, list[Entry]]
Reader = Callable[[Path, Path], Splits]
ClassOf = Callable[[PurePosixPath], str]


def read_zhou(folder: Path, images: Path) -> Splits:  # noqa: ARG001 (a Reader)
    """Read `split_zhou_*.json`: `{"train": [[path, label, class name], ...], "val": ..., ...}`.

    Raises:
        ValueError: if the file is anything else.
    """
    file = next(folder.glob("split_zhou_*.json"))
    try:
        lists = json.loads(file.read_text("utf-8"))
        return {
            split: [Entry(str(path), int(label), str(name)) for path, label, name in lists[split]]
            for split in SPLITS
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a readable split file: {error!r}") from None


def read_variants(folder: Path, images: Path) -> Splits:  # noqa: ARG001 (a Reader)
    """Read FGVC Aircraft's lists `number variant name`; labels follow variants.txt.

    Raises:
        ValueError: if a line has no known variant.
    """
    label_of = {name: label for label, name in enumerate(read_lines(folder / "variants.txt"))}
    splits: Splits = {}
    for split in SPLITS:
        file = folder / f"images_variant_{split}.txt"
        pairs = [line.partition(" ")[::2] for line in read_lines(file)]
        unknown = sorted({name for _, name in pairs if name not in label_of})
        report_all(f"{file}: variants that are not in variants.txt", unknown)
        splits[split] = [Entry(f"{number}.jpg", label_of[name], name) for number, name in pairs]
    return splits


def read_imagenet(folder: Path, images: Path) -> Splits:
    """Read ImageNet: train is train, test is val; there is no validation split to select with."""
    return {
        "train": read_class_folders(folder, images / "train", "train/"),
        "test": read_class_folders(folder, images / "val", "val/"),
    }


def read_class_folders_for_test(folder: Path, images: Path) -> Splits:
    """Read a variant of ImageNet with folders named like ImageNet's; labels follow the folders."""
    return {"test": read_class_folders(folder, images)}


def read_numbered_folders(folder: Path, images: Path) -> Splits:
    """Read ImageNetV2, whose folders 0, 1, ... are the lines of classnames.txt.

    Raises:
        ValueError: if a folder is not the number of a line.
    """
    names = list(read_class_names(folder).values())
    numbers = [str(number) for number in range(len(names))]
    unknown = sorted({inside.name for inside in find_folders(images)} - set(numbers))
    report_all(f"{images}: folders that are no line of {folder / NAMES}", unknown)
    return {
        "test": [
            Entry(f"{number}/{file}", label, names[label])
            for label, number in enumerate(numbers)
            for file in listed(images / number)
        ]
    }


def read_class_folders(folder: Path, images: Path, prefix: str = "") -> list[Entry]:
    """Return the images of folders named like ImageNet's, labelled in sorted order.

    Raises:
        ValueError: if a folder is not in classnames.txt.
    """
    name_of = read_class_names(folder)
    inside = find_folders(images)
    unknown = [path.name for path in inside if path.name not in name_of]
    report_all(f"{images}: folders that are not in {folder / NAMES}", unknown)
    return [
        Entry(f"{prefix}{path.name}/{file}", label, name_of[path.name])
        for label, path in enumerate(inside)
        for file in listed(path)
    ]


def read_class_names(folder: Path) -> dict[str, str]:
    """Return the class names of ImageNet's folders, in the order of classnames.txt."""
    lines = (line.partition(" ") for line in read_lines(folder / NAMES))
    return {wnid: name for wnid, _, name in lines}


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines without blank ones.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable: {error}") from None


def make_split(
    images: Path, class_of: ClassOf, renamed: Mapping[str, str | None], seed: int
) -> Splits:
    """Split 50/20/30 by class, as CoOp's code does without a split file, but by a seed.

    Args:
        images: folder of the images.
        class_of: returns an image's class from its path below the images.
        renamed: other names of some classes; None leaves a class out.
        seed: of each class's order.

    Raises:
        ValueError: naming every class with fewer than 3 images.
    """
    by_class: dict[str, list[str]] = {}
    for path in sorted(all_files(images)):
        if path.lower().endswith((".jpg", ".jpeg", ".png", ".tif")):
            by_class.setdefault(class_of(PurePosixPath(path)), []).append(path)
    rng = random.Random(seed)
    splits: Splits = {split: [] for split in SPLITS}
    known = sorted(name for name in by_class if renamed.get(name, name) is not None)
    too_small = [f"{name}: {len(by_class[name])}" for name in known if len(by_class[name]) < 3]
    report_all(f"{images}: classes too small to be split; expected 3 or more images", too_small)
    for label, own in enumerate(known):
        paths, name = by_class[own], str(renamed.get(own, own))
        rng.shuffle(paths)
        n_train, n_val = split_counts(len(paths), PUBLIC_SHARES)
        entries = [Entry(path, label, name) for path in paths]
        splits["train"] += entries[:n_train]
        splits["val"] += entries[n_train : n_train + n_val]
        splits["test"] += entries[n_train + n_val :]
    return splits


def first_folder(path: PurePosixPath) -> str:
    """Return the class of `class/image.jpg`."""
    return path.parts[0]


def breed(path: PurePosixPath) -> str:
    """Return the class of OxfordPets' `Great_Pyrenees_12.jpg`."""
    return path.stem.rpartition("_")[0].lower()


def scene(path: PurePosixPath) -> str:
    """Return the class of SUN397's `a/apartment_building/outdoor/x.jpg`: outdoor first."""
    return " ".join(reversed(path.parts[1:-1]))


def listed(folder: Path) -> list[str]:
    """Return the names of the files in a folder, hidden ones left out, sorted; [] without it."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def all_files(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it; hidden ones left out."""
    return {path.relative_to(folder).as_posix() for path in find_files(folder)}
