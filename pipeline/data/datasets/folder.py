"""Own pictures in folders: `<root>/<task>/<class>/*.jpg`.

A task's folder may hold `train` and `test`, and `val` too, with the classes' folders inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import report_all
from pipeline.data.config import FolderConfig
from pipeline.data.datasets.custom import Picture, build_own, spoken
from pipeline.data.datasets.files import (
    content_hashes,
    find_each,
    find_files,
    find_folders,
    listing_hash,
    normal,
)
from pipeline.data.manifest import SPLITS, Manifest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Which files are pictures, in small or capital letters; others are ignored."""


def find(config: FolderConfig, tasks: Sequence[str]) -> dict[str, str]:
    """Return a hash of every task's file names, sizes and times, without reading the files.

    Raises:
        ValueError: naming every folder that is missing or holds no folder, and all that cannot be
            read.
    """
    root = Path(config.root)

    def find_one(task: str) -> str:
        folder = root / task
        if not find_folders(folder):
            raise ValueError(f"{folder}: {'no folder in it' if folder.is_dir() else 'missing'}")
        return listing_hash(find_files(folder), root)

    layout = "<task>/<class>/*.jpg, or <task>/<train, val or test>/<class>/*.jpg"
    return find_each(find_one, tasks, config.root, layout)


def build(config: FolderConfig, task: str) -> Manifest:
    """Build the manifest of a folder; its classes are the folders in alphabetical order.

    Raises:
        ValueError: on empty or equally named classes, files that cannot be read, and as
            `build_own` says.
    """
    root = Path(config.root)
    found = [
        (path.relative_to(root).as_posix(), split, name)
        for split, folder in split_folders(root / task)
        for name, path in class_pictures(folder)
    ]
    found.sort(key=lambda entry: (normal(entry[0]), entry[0]))
    label_of = {name: label for label, name in enumerate(sorted({name for _, _, name in found}))}
    digests = content_hashes([root / path for path, _, _ in found])
    pictures = [
        Picture(path, {"bytes": None, "path": path}, digest, label_of[name], name, split)
        for (path, split, name), digest in zip(found, digests, strict=True)
    ]
    return build_own(config, "folder", task, pictures)


def split_folders(folder: Path) -> list[tuple[str | None, Path]]:
    """Return the folders that hold a task's classes, with their splits; None if there are none.

    Folders named train, val and test are splits if there are no others beside them.

    Raises:
        ValueError: if there is one of them but not both train and test.
    """
    names = [path.name for path in find_folders(folder)]
    if not set(names) <= set(SPLITS):
        return [(None, folder)]
    if not {"train", "test"} <= set(names):
        raise ValueError(
            f"{folder}: got folders {names}; expected classes, or train and test, with or without "
            "val"
        )
    return [(split, folder / split) for split in SPLITS if split in names]


def class_pictures(folder: Path) -> list[tuple[str, Path]]:
    """Return class names and pictures of the class folders in a folder.

    Raises:
        ValueError: naming every class without a picture, and classes that share a name.
    """
    found, problems = [], []
    folder_of: dict[str, Path] = {}
    for inside in find_folders(folder):
        name = spoken(normal(inside.name))
        pictures = [path for path in find_files(inside) if path.suffix.lower() in SUFFIXES]
        if not pictures:
            problems.append(f"{inside}: no picture; expected files {', '.join(SUFFIXES)}")
        if name in folder_of:
            problems.append(f"{inside} and {folder_of[name]}: both are class {name!r}")
        folder_of[name] = inside
        found += [(name, path) for path in pictures]
    report_all(f"{folder}: {len(problems)} problem(s)", problems)
    return found
