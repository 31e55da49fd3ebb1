"""Images of the benchmark that torchvision can still download, put where CoOp expects them."""

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
        made: what it leaves in the folder that it is given; its content is the data set's.
    """

    name: str
    made: str


DOWNLOADS = {
    "caltech101": Download("Caltech101", "caltech101"),
    "oxford_pets": Download("OxfordIIITPet", "oxford-iiit-pet"),
    "oxford_flowers": Download("Flowers102", "flowers-102"),
    "food101": Download("Food101", "food-101"),
    "fgvc_aircraft": Download("FGVCAircraft", "fgvc-aircraft-2013b/data"),
    "sun397": Download("SUN397", "."),
    "dtd": Download("DTD", "dtd/dtd"),
    "eurosat": Download("EuroSAT", "eurosat"),
}
"""By task. StanfordCars is not here: its address is dead and torchvision refuses."""


def torchvision_download(name: str, folder: Path) -> Any:
    """Let torchvision download one of its data sets into a folder."""
    from torchvision import datasets

    return getattr(datasets, name)(str(folder), download=True)


def fetch(
    download: Download, folder: Path, make: Callable[[str, Path], object] = torchvision_download
) -> None:
    """Download a data set's images into its folder; what is there already stays.

    They appear complete or not at all. After a failure the next call goes on with what is whole.

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
