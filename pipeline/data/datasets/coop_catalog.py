"""The 15 data sets of the CoOp benchmark, and where they are below CoOp's `$DATA`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.datasets.coop_splits import (
    ClassOf,
    Reader,
    breed,
    first_folder,
    read_class_folders_for_test,
    read_imagenet,
    read_numbered_folders,
    read_variants,
    scene,
    zhou,
)
from pipeline.data.manifest import SPLITS, TEST_ONLY

PHOTO = "a photo of a {}."
NAMES = "classnames.txt"


@dataclass(frozen=True)
class DataSet:
    """A data set, as it is on disk and as it was published.

    Attributes:
        folder: of the data set, in `prepare.coop.root`.
        images: of its images, in `folder`; paths in its split are relative to it.
        read: reads its split and class names.
        files: what `read` needs in `folder`, beside the images.
        template: the zero-shot caption.
        published: how many classes, training images and test images it has.
        splits: those that it has; the variants of ImageNet are only tested.
        class_of: the class of a path, where a split can be made without the split file.
        renamed: CoOp's names of some classes that `class_of` finds; None leaves one out.
    """

    folder: str
    images: str
    read: Reader
    files: tuple[str, ...]
    template: str
    published: tuple[int, int, int]
    splits: tuple[str, ...] = SPLITS
    class_of: ClassOf | None = None
    renamed: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def by_folders(self) -> bool:
        """Whether images are listed by folders, not by a file, so that none can be missing."""
        return NAMES in self.files


def zhou_set(
    name: str,
    folder: str,
    images: str,
    template: str,
    published: tuple[int, int, int],
    class_of: ClassOf | None = None,
    renamed: Mapping[str, str | None] | None = None,
) -> DataSet:
    """Declare a data set whose split is `split_zhou_<name>.json`."""
    files = (f"split_zhou_{name}.json",)
    return DataSet(
        folder, images, zhou(name), files, template, published, SPLITS, class_of, renamed or {}
    )


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
        "imagenet", "images", read_imagenet, (NAMES, "images/train", "images/val"), PHOTO,
        (1000, 1281167, 50000), ("train", "test"),
    ),
    "caltech101": zhou_set(
        "Caltech101", "caltech-101", "101_ObjectCategories", PHOTO, (100, 4128, 2465),
        first_folder, CALTECH_NAMES,
    ),
    "oxford_pets": zhou_set(
        "OxfordPets", "oxford_pets", "images", "a photo of a {}, a type of pet.",
        (37, 2944, 3669), breed,
    ),
    "stanford_cars": DataSet(
        "stanford_cars", ".", zhou("StanfordCars"),
        ("split_zhou_StanfordCars.json", "cars_train", "cars_test"), PHOTO, (196, 6509, 8041),
    ),
    "oxford_flowers": zhou_set(
        "OxfordFlowers", "oxford_flowers", "jpg", "a photo of a {}, a type of flower.",
        (102, 4093, 2463),
    ),
    "food101": zhou_set(
        "Food101", "food-101", "images", "a photo of {}, a type of food.", (101, 50500, 30300),
        first_folder,
    ),
    "fgvc_aircraft": DataSet(
        "fgvc_aircraft", "images", read_variants,
        ("variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS)),
        "a photo of a {}, a type of aircraft.", (100, 3334, 3333),
    ),
    "sun397": zhou_set("SUN397", "sun397", "SUN397", PHOTO, (397, 15880, 19850), scene),
    "dtd": zhou_set(
        "DescribableTextures", "dtd", "images", "{} texture.", (47, 2820, 1692), first_folder
    ),
    "eurosat": zhou_set(
        "EuroSAT", "eurosat", "2750", "a centered satellite photo of {}.", (10, 13500, 8100),
        first_folder, EUROSAT_NAMES,
    ),
    "ucf101": zhou_set(
        "UCF101", "ucf101", "UCF-101-midframes", "a photo of a person doing {}.",
        (101, 7639, 3783), first_folder,
    ),
    "imagenetv2": DataSet(
        "imagenetv2", "imagenetv2-matched-frequency-format-val", read_numbered_folders, (NAMES,),
        PHOTO, (1000, 0, 10000), TEST_ONLY,
    ),
    "imagenet_sketch": DataSet(
        "imagenet-sketch", "images", read_class_folders_for_test, (NAMES,), PHOTO,
        (1000, 0, 50889), TEST_ONLY,
    ),
    "imagenet_a": DataSet(
        "imagenet-adversarial", "imagenet-a", read_class_folders_for_test, (NAMES,), PHOTO,
        (200, 0, 7500), TEST_ONLY,
    ),
    "imagenet_r": DataSet(
        "imagenet-rendition", "imagenet-r", read_class_folders_for_test, (NAMES,), PHOTO,
        (200, 0, 30000), TEST_ONLY,
    ),
}  # fmt: skip
"""The benchmark: all that differs between its data sets."""
