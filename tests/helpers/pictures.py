"""Tiny pictures and tiny data sets in their true layouts, for the tests of data."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def png(number: int) -> bytes:
    """An encoded picture; other numbers give other pictures."""
    colour = (number % 256, number // 256 % 256, 40)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, number: int = 0) -> None:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))


ZHOU = {
    "caltech101": ("caltech-101", "101_ObjectCategories", "Caltech101"),
    "oxford_pets": ("oxford_pets", "images", "OxfordPets"),
    "stanford_cars": ("stanford_cars", ".", "StanfordCars"),
    "oxford_flowers": ("oxford_flowers", "jpg", "OxfordFlowers"),
    "food101": ("food-101", "images", "Food101"),
    "sun397": ("sun397", "SUN397", "SUN397"),
    "dtd": ("dtd", "images", "DescribableTextures"),
    "eurosat": ("eurosat", "2750", "EuroSAT"),
    "ucf101": ("ucf101", "UCF-101-midframes", "UCF101"),
}
"""Data sets with a split file: folder, images, name in the file's name (shared/protocol)."""
IMAGENET_VARIANTS = {
    "imagenet_sketch": ("imagenet-sketch", "images"),
    "imagenet_a": ("imagenet-adversarial", "imagenet-a"),
    "imagenet_r": ("imagenet-rendition", "imagenet-r"),
}
WNIDS = {"n03": "tench", "n01": "great_white shark", "n02": "crane", "n04": "crane"}
"""classnames.txt: not in the order of the folders; two classes share a name, as in the real one."""


def split_of(name: str) -> dict[str, list[list]]:
    """A split file's content: four classes, in no tidy order."""
    where = "cars_train/{}.jpg" if name == "stanford_cars" else "some_class/im_{}.jpg"
    rows = [(2, "apple_pie"), (0, "cat"), (3, "Boeing 747"), (1, "dog_house"), (0, "cat")]
    lists = {}
    for start, (split, count) in enumerate([("train", 5), ("val", 4), ("test", 5)]):
        lists[split] = [
            [where.format(100 * start + i), label, class_name]
            for i, (label, class_name) in enumerate(rows[:count])
        ]
    return lists


def make_zhou(root: Path, name: str, with_split: bool = True) -> dict[str, list[list]]:
    """Lay out a data set that has a split file; return that file's content."""
    folder, images, title = ZHOU[name]
    lists = split_of(name)
    for number, (path, _, _) in enumerate(row for rows in lists.values() for row in rows):
        put(root / folder / images / path, number)
    if name == "stanford_cars":
        (root / folder / "cars_test").mkdir()
    if with_split:
        (root / folder / f"split_zhou_{title}.json").write_text(json.dumps(lists))
    return lists


def make_aircraft(root: Path) -> None:
    """Lay out FGVC Aircraft: variants in the order of variants.txt, which is not alphabetical."""
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "F-16A/B", "A300B4", "Yak-42"]
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(variants) + "\n")
    for start, split in enumerate(("train", "val", "test")):
        numbers = [f"{1000 * start + i:07d}" for i in range(5)]
        lines = [f"{n} {variants[(3 * i) % 4]}" for i, n in enumerate(numbers)]
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for number in numbers:
            put(folder / "images" / f"{number}.jpg", int(number))


def make_imagenet(root: Path) -> None:
    """Lay out ImageNet: two training images and one validation image of each class."""
    for split, count in (("train", 2), ("val", 1)):
        make_class_folders(root / "imagenet" / "images" / split, sorted(WNIDS), count)
    write_class_names(root / "imagenet")


def make_variant(root: Path, name: str) -> None:
    """Lay out a variant of ImageNet with some of its classes."""
    folder, images = IMAGENET_VARIANTS[name]
    make_class_folders(root / folder / images, ["n04", "n01", "n03"], 2)
    (root / folder / images / "README.txt").write_text("not a class")
    write_class_names(root / folder)


def make_v2(root: Path) -> None:
    """Lay out ImageNetV2, whose folders are numbers of lines."""
    images = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    make_class_folders(images, [str(i) for i in range(12)], 1)
    lines = [f"n{90 - i} class {i}" for i in range(12)]
    (root / "imagenetv2" / "classnames.txt").write_text("\n".join(lines) + "\n")


def make_class_folders(images: Path, names: Sequence[str], count: int) -> None:
    """Put pictures into folders."""
    for name in reversed(names):
        for i in reversed(range(count)):
            put(images / name / f"{name}_{i}.JPEG", i)
        (images / name / ".DS_Store").write_text("hidden")


def write_class_names(folder: Path) -> None:
    """Write classnames.txt."""
    lines = [f"{wnid} {name}" for wnid, name in WNIDS.items()]
    (folder / "classnames.txt").write_text("\n".join(lines) + "\n")


def make_benchmark(root: Path) -> None:
    """Lay out all 15 data sets."""
    for name in ZHOU:
        make_zhou(root, name)
    make_aircraft(root)
    make_imagenet(root)
    for name in IMAGENET_VARIANTS:
        make_variant(root, name)
    make_v2(root)
