"""An interrupted encoding resumes, and never uses features that it must not."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.clip.backbone import Backbone
from pipeline.data.manifest import Manifest, save_manifest
from pipeline.features import extract
from pipeline.features.extract import encode_task
from pipeline.features.shards import Encoded, restore, save_shard
from pipeline.features.task import TaskFeatures
from tests.helpers.toy import EPS, features_config, with_images

SIZE = 8
"""Pictures of a shard here: the 45 images and 20 crops are 9 shards."""
OPTIONS: dict[str, Any] = {"views": 1, "batch_size": 4}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards that the tiny task has several of."""
    monkeypatch.setattr(extract, "SIZE", SIZE)


@pytest.fixture
def files(manifest: Manifest, tmp_path: Path) -> Manifest:
    """The tiny task with its pictures in files."""
    images = []
    for index, image in enumerate(manifest.rows["image"]):
        path = tmp_path / "pictures" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image["bytes"])
        images.append({"bytes": None, "path": str(path)})
    return with_images(manifest, images)


class Counted:
    """Encodes a task with shards; counts the pictures that pass the image tower."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone, self.folder, self.count, self.told = backbone, folder, 0, 0

    def __call__(self, manifest: Manifest, **changed: Any) -> TaskFeatures:
        self.count = self.told = 0
        visual = self.backbone.model.visual
        hook = visual.register_forward_pre_hook(lambda _, inputs: self.add(len(inputs[0])))
        try:
            return encode_task(
                self.backbone, manifest, "h", features_config(**{**OPTIONS, **changed}), self.tell,
                folder=self.folder,
            )  # fmt: skip
        finally:
            hook.remove()

    def add(self, count: int) -> None:
        self.count += count

    def tell(self, count: int) -> None:
        self.told += count


@pytest.fixture
def counted(backbone: Backbone, tmp_path: Path) -> Counted:
    return Counted(backbone, tmp_path / "shards")


def equal(first: TaskFeatures, second: TaskFeatures) -> bool:
    """Compare features bit by bit."""
    names = ("features_NE", "views_NVE", "row_N", "label_N", "train_index_T")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pipeline.features import extract
from pipeline.clip.backbone import load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.features.config import FeaturesConfig
from pipeline.data.manifest import load_manifest
extract.SIZE = 8
backbone = load_backbone(BackboneConfig(name=sys.argv[1], pretrained=None, device="cpu"))
config = FeaturesConfig(
    views=1, crop_scale=(0.5, 1), flip=False, batch_size=4, workers=1, seed=1
)
total = 0
def count(new):
    global total
    total += new
    print(total, flush=True)
    if total == 28:  # three shards and half of the fourth
        sys.stdin.read()
manifest = load_manifest(Path(sys.argv[2]))
extract.encode_task(backbone, manifest, "h", config, count, folder=Path(sys.argv[3]))
"""


def test_a_killed_run_is_continued(
    backbone: Backbone, clip_folder: Path, files: Manifest, counted: Counted, tmp_path: Path
) -> None:
    """After kill -9 only the missing shards are encoded, and the result is the same, bit by bit."""
    save_manifest(tmp_path / "things.parquet", files)
    arguments = [clip_folder, tmp_path / "things.parquet", counted.folder]
    killed = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.strip() == "28":
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    total = files.n_encodings(1)
    assert len(list(counted.folder.rglob("*.safetensors"))) == 3
    found = counted(files)
    assert counted.count == total - 3 * SIZE
    assert counted.told == total
    assert equal(found, encode_task(backbone, files, "h", features_config(**OPTIONS)))
    counted(files)
    assert counted.count == 0


def test_what_changed_is_encoded_anew(files: Manifest, counted: Counted) -> None:
    """A picture by its file's time or size, a crop by its seed, all by settings and weights."""
    counted(files)
    path = Path(files.rows["image"][44]["path"])
    os.utime(path, ns=(1, 1))
    counted(files)
    assert counted.count == 1
    Image.new("RGB", (32, 32), "red").save(path)
    found = counted(files)
    assert counted.count == 1
    assert not torch.equal(found.features_NE[44], found.features_NE[43])
    counted(files, seed=2)
    assert counted.count == 20
    counted(files, crop_scale=(0.6, 1))
    assert counted.count == 65
    counted.backbone = replace(counted.backbone, fingerprint="another")
    counted(files)
    assert counted.count == 65


def test_rows_may_come_and_go(backbone: Backbone, files: Manifest, counted: Counted) -> None:
    """What is encoded is found by its picture, not by its place."""
    counted(files)
    fewer = replace(files, rows=files.rows.drop(index=[30, 40]).reset_index(drop=True))
    found = counted(fewer)
    assert counted.count == 0
    expected = encode_task(backbone, fewer, "h", features_config(**OPTIONS))
    torch.testing.assert_close(found.views_NVE, expected.views_NVE, rtol=0, atol=64 * EPS)
    torch.testing.assert_close(found.features_NE, expected.features_NE, rtol=0, atol=64 * EPS)


def test_after_an_error_nothing_is_encoded_twice(files: Manifest, counted: Counted) -> None:
    path = Path(files.rows["image"][40]["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-60])
    with pytest.raises(ValueError, match="1 image.s. cannot be read; fix"):
        counted(files)
    assert counted.count == 64
    path.write_bytes(whole)
    counted(files)
    assert counted.count == 1


def test_equal_pictures_in_several_rows(manifest: Manifest, counted: Counted) -> None:
    images = manifest.rows["image"].tolist()
    images[41] = images[44]
    first, again = (counted(with_images(manifest, images)) for _ in range(2))
    assert counted.count == 0
    assert torch.equal(again.features_NE[41], again.features_NE[44])
    assert equal(first, again)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"", lambda _: b"x" * 99])
def test_a_damaged_shard_is_no_shard(files: Manifest, counted: Counted, damage: Any) -> None:
    whole = counted(files)
    path = min(counted.folder.rglob("*.safetensors"))
    size = len(load_file(path)["key_n"])
    path.write_bytes(damage(path.read_bytes()))
    assert equal(counted(files), whole)
    assert counted.count == size


def test_features_are_found_by_key(tmp_path: Path) -> None:
    """Against a dict, with repeated keys and keys that no shard holds."""
    rng = np.random.default_rng(0)
    known = rng.permutation(np.arange(-50, 50))
    features = torch.randn(100, 3)
    for part in np.split(np.arange(100), [1, 40, 77]):
        save_shard(tmp_path, known[part], features[torch.from_numpy(part)])
    save_shard(tmp_path, known[:0], features[:0])
    (tmp_path / ".half.safetensors").write_bytes(b"")
    by_key = dict(zip(known.tolist(), features, strict=True))
    wanted = rng.integers(-80, 80, 300)
    encoded = Encoded(len(wanted))
    restore(tmp_path, wanted, encoded)
    for key, found_E, done in zip(
        wanted.tolist(), encoded.features_XE, encoded.done_X, strict=True
    ):
        assert done == (key in by_key)
        assert torch.equal(found_E, by_key.get(key, torch.zeros(3)))
