"""The 15 data sets of the CoOp benchmark, and where they are below CoOp's `$DATA`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.datasets.coop_splits import (
    NAMES,
    ClassOf,
    Reader,
    breed,
    first_folder,
    read_class_folders_for_test,
    read_imagenet,
    read_numbered_folders,
    read_variants,
    read_zhou,
    scene,
)
from pipeline.data.manifest import SPLITS, TEST_ONLY


@dataclass(frozen=True)
class DataSet:
    """A data set, as it is on disk and as it was published.

    Attributes:
        folder: of the data set, in `prepare.coop.root`.
        images: of its images, in `folder`; paths in its split are relative to it.
        files: what `read` needs in `folder`, beside the images.
        published: how many classes, training images and test images it has.
        template: the zero-shot caption.
        read: reads its split and class names.
        splits: those that it has; the variants of ImageNet are only tested.
        class_of: the class of a path, where a split can be made without the split file.
        renamed: CoOp's names of some classes that `class_of` finds; None leaves one out.
    """

    folder: str
    images: str
    files: tuple[str, ...]
    published: tuple[int, int, int]
    template: str = "a photo of a {}."
    read: Reader = read_zhou
    splits: tuple[str, ...] = SPLITS
    class_of: ClassOf | None = None
    renamed: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def by_folders(self) -> bool:
        """Whether images are listed by folders, not by a file, so that none can be missing."""
        return NAMES in self.files


CALTECH_NAMES = {
    "BACKGROUND_Google": None,
    "Faces_easy": None,
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}

# Names are those of CoOp's configs/datasets; sizes those of the appendix of arXiv 2109.01134.
DATA_SETS: dict[str, DataSet] = {
    "imagenet": DataSet(
        "imagenet", "images", (NAMES, "images/train", "images/val"), (1000, 1281167, 50000),
        read=read_imagenet, splits=("train", "test"),
    ),
    "caltech101": DataSet(
        "caltech-101", "101_ObjectCategories", ("split_zhou_Caltech101.json",), (100, 4128, 2465),
        class_of=first_folder, renamed=CALTECH_NAMES,
    ),
    "oxford_pets": DataSet(
        "oxford_pets", "images", ("split_zhou_OxfordPets.json",), (37, 2944, 3669),
        "a photo of a {}, a type of pet.", class_of=breed,
    ),
    "stanford_cars": DataSet(
        "stanford_cars", ".", ("split_zhou_StanfordCars.json", "cars_train", "cars_test"),
        (196, 6509, 8041),
    ),
    "oxford_flowers": DataSet(
        "oxford_flowers", "jpg", ("split_zhou_OxfordFlowers.json",), (102, 4093, 2463),
        "a photo of a {}, a type of flower.",
    ),
    "food101": DataSet(
        "food-101", "images", ("split_zhou_Food101.json",), (101, 50500, 30300),
        "a photo of {}, a type of food.", class_of=first_folder,
    ),
    "fgvc_aircraft": DataSet(
        "fgvc_aircraft", "images",
        ("variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS)), (100, 3334, 3333),
        "a photo of a {}, a type of aircraft.", read_variants,
    ),
    "sun397": DataSet(
        "sun397", "SUN397", ("split_zhou_SUN397.json",), (397, 15880, 19850), class_of=scene
    ),
    "dtd": DataSet(
        "dtd", "images", ("split_zhou_DescribableTextures.json",), (47, 2820, 1692),
        "{} texture.", class_of=first_folder,
    ),
    "eurosat": DataSet(
        "eurosat", "2750", ("split_zhou_EuroSAT.json",), (10, 13500, 8100),
        "a centered satellite photo of {}.", class_of=first_folder, renamed=EUROSAT_NAMES,
    ),
    "ucf101": DataSet(
        "ucf101", "UCF-101-midframes", ("split_zhou_UCF101.json",), (101, 7639, 3783),
        "a photo of a person doing {}.", class_of=first_folder,
    ),
    "imagenetv2": DataSet(
        "imagenetv2", "imagenetv2-matched-frequency-format-val", (NAMES,), (1000, 0, 10000),
        read=read_numbered_folders, splits=TEST_ONLY,
    ),
    "imagenet_sketch": DataSet(
        "imagenet-sketch", "images", (NAMES,), (1000, 0, 50889),
        read=read_class_folders_for_test, splits=TEST_ONLY,
    ),
    "imagenet_a": DataSet(
        "imagenet-adversarial", "imagenet-a", (NAMES,), (200, 0, 7500),
        read=read_class_folders_for_test, splits=TEST_ONLY,
    ),
    "imagenet_r": DataSet(
        "imagenet-rendition", "imagenet-r", (NAMES,), (200, 0, 30000),
        read=read_class_folders_for_test, splits=TEST_ONLY,
    ),
}  # fmt: skip
"""The benchmark: all that differs between its data sets."""
