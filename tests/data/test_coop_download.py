"""Images that are missing are downloaded into the layout of CoOp."""

import inspect
import json
from pathlib import Path

import pytest
import torchvision

from pipeline.data.config import CoopConfig
from pipeline.data.datasets.coop import build, find
from pipeline.data.datasets.coop_catalog import DATA_SETS
from pipeline.data.datasets.coop_download import DOWNLOADS
from pipeline.data.manifest import check_manifest
from tests.helpers.pictures import (
    put,
)


def config(root: Path, **changes: object) -> CoopConfig:
    return CoopConfig(**{"root": str(root), "download": False, "seed": 1, **changes})


class FakeTorchvision:
    """Leaves behind what torchvision's data sets do, or fails."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.broken, self.calls = broken, []

    def __call__(self, name: str, folder: Path) -> None:
        self.calls.append(name)
        if name in self.broken:
            (folder / "half.tar.gz").write_text("...")
            raise RuntimeError("File not found or corrupted.")
        layouts = {
            "OxfordIIITPet": ("oxford-iiit-pet/images/{}_{}.jpg", "oxford-iiit-pet/images.tar.gz"),
            "DTD": ("dtd/dtd/images/{0}/{0}_{1}.jpg", "dtd/dtd-r1.0.1.tar.gz"),
            "EuroSAT": ("eurosat/2750/{0}/{0}_{1}.jpg", "eurosat/EuroSAT.zip"),
            "Food101": ("food-101/images/{0}/{0}_{1}.jpg", "food-101.tar.gz"),
            "Caltech101": ("caltech101/101_ObjectCategories/{0}/{0}_{1}.jpg", "caltech101/x.tar"),
            "Flowers102": ("flowers-102/jpg/{0}_{1}.jpg", "flowers-102/102flowers.tgz"),
        }
        picture, archive = layouts[name]
        for number in range(12):
            put(folder / picture.format("abc"[number % 3], number), number)
        (folder / archive).write_text("packed")


def test_missing_images_are_downloaded_into_the_layout_of_coop(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = ["oxford_pets", "dtd", "eurosat", "food101", "caltech101"]
    fake = FakeTorchvision()
    with pytest.raises(ValueError, match="5 of 5"):
        find(config(root), names, fake)
    assert fake.calls == [], "only if it is wanted"
    find(config(root, download=True), names, fake)
    assert fake.calls == ["OxfordIIITPet", "DTD", "EuroSAT", "Food101", "Caltech101"]
    for name in names:
        data = DATA_SETS[name]
        assert [path.name for path in (root / data.folder).iterdir()] == [data.images]
        manifest = build(config(root), name)
        check_manifest(manifest, root)
        assert len(manifest.rows) == 12
        assert manifest.notes["comparable"] is False
    assert not [path for path in root.iterdir() if path.name.startswith(".")], "nothing is left"
    find(config(root, download=True), names, fake)
    assert len(fake.calls) == 5, "what is there is not downloaded again"


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "oxford_pets").mkdir()
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").write_text(
        json.dumps(
            {s: [[f"a_{i}.jpg", 0, "a"]] for i, s in ((0, "train"), (3, "val"), (6, "test"))}
        )
    )
    find(config(tmp_path, download=True), ["oxford_pets"], FakeTorchvision())
    assert build(config(tmp_path), "oxford_pets").counts == {"train": 1, "val": 1, "test": 1}


def test_a_failed_download_is_told_and_can_be_repeated(tmp_path: Path) -> None:
    broken = FakeTorchvision(broken=("DTD", "Flowers102"))
    names = ["dtd", "eurosat", "oxford_flowers", "stanford_cars", "sun397"]
    with pytest.raises(ValueError, match="4 of 5") as caught:
        find(config(tmp_path, download=True), names, broken)
    message = str(caught.value)
    assert "dtd: torchvision's DTD cannot be downloaded: RuntimeError: File not found" in message
    assert "oxford_flowers: torchvision's Flowers102 cannot be downloaded" in message
    for name, layout in (("stanford_cars", "cars_train/00001.jpg"), ("sun397", "SUN397/a/abbey/")):
        [line] = [line for line in message.splitlines() if f"- {name}: missing" in line]
        assert "address is dead" in line
        assert layout in line
    assert not (tmp_path / "dtd").exists(), "complete or not at all"
    assert (tmp_path / ".dtd.download/half.tar.gz").exists(), "a repeated call goes on from here"
    find(config(tmp_path, download=True), ["dtd"], FakeTorchvision())
    assert not (tmp_path / ".dtd.download").exists()


@pytest.mark.parametrize("download", DOWNLOADS.values(), ids=lambda download: download.name)
def test_torchvision_has_what_is_downloaded(download) -> None:
    kind = getattr(torchvision.datasets, download.name)
    assert {"root", "download"} <= set(inspect.signature(kind).parameters)
