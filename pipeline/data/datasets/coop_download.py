"""Images of the benchmark that torchvision can download, put where CoOp expects them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHIVES = (".zip", ".gz", ".tgz", ".tar")


@dataclass(frozen=True)
class Download:
    """A data set of torchvision.

    Attributes:
        name: of its class in `torchvision.datasets`.
        made: the folder that it makes, whose content is the data set's.
    """

    name: str
    made: str


DOWNLOADS = {
    "caltech101": Download("Caltech101", "caltech101"),
    "oxford_pets": Download("OxfordIIITPet", "oxford-iiit-pet"),
    "oxford_flowers": Download("Flowers102", "flowers-102"),
    "food101": Download("Food101", "food-101"),
    "fgvc_aircraft": Download("FGVCAircraft", "fgvc-aircraft-2013b/data"),
    "dtd": Download("DTD", "dtd/dtd"),
    "eurosat": Download("EuroSAT", "eurosat"),
}
"""By task: what torchvision can still download."""

GONE = {
    "sun397": (
        "torchvision's address is dead (pytorch/vision #9348): bring a copy of SUN397.tar.gz, "
        "unpacked to SUN397/a/abbey/sun_*.jpg and so on"
    ),
    "stanford_cars": (
        "torchvision's address is dead: bring a copy, with images cars_train/00001.jpg, "
        "cars_test/00001.jpg and so on"
    ),
}
"""By task: what torchvision offers or offered, and what to do instead."""


def torchvision_download(name: str, folder: Path) -> Any:
    """Let torchvision download one of its data sets into a folder."""
    from torchvision import datasets

    return getattr(datasets, name)(str(folder), download=True)


def fetch(
    download: Download, folder: Path, make: Callable[[str, Path], object] = torchvision_download
) -> None:
    """Download a data set's images into its folder; existing files stay.

    They appear complete or not at all. After a failure the next call resumes the download.

    Args:
        download: what to download.
        folder: of the data set, in CoOp's layout.
        make: downloads the named data set of torchvision into a folder.

    Raises:
        ValueError: if it fails, for whatever reason.
    """
    temporary = folder.with_name(f".{folder.name}.download")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        make(download.name, temporary)
        folder.mkdir(exist_ok=True)
        for found in sorted((temporary / download.made).iterdir()):
            if found.suffix not in ARCHIVES and not (folder / found.name).exists():
                found.rename(folder / found.name)
        shutil.rmtree(temporary)
    except Exception as error:  # torchvision's and its servers' failures are of many kinds
        raise ValueError(
            f"torchvision's {download.name} cannot be downloaded: {type(error).__name__}: {error}"
        ) from None
