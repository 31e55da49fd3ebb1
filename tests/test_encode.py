"""Pictures become features: reproducibly, in order, and with all complaints together."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backbone import Backbone
from pipeline.encode import Pictures, encode_task
from pipeline.features import SPLITS, FeaturesConfig
from pipeline.manifest import Manifest

EPS = torch.finfo(torch.float32).eps


def config(**changed: Any) -> FeaturesConfig:
    """Return how to encode."""
    plain = {
        "views": 2,
        "crop_scale": (0.5, 1.0),
        "flip": False,
        "batch_size": 16,
        "workers": 0,
        "seed": 1,
    }
    return FeaturesConfig(**{**plain, **changed})


def test_rows_stay_in_order(backbone: Backbone, manifest: Manifest) -> None:
    counted: list[int] = []
    found = encode_task(backbone, manifest, "hash", config(), counted.append)
    rows = manifest.rows
    assert sum(counted) == manifest.n_encodings(2)
    assert found.class_names == tuple(manifest.class_names)
    assert found.label_N.tolist() == rows["label"].tolist()
    assert [SPLITS[i] for i in found.split_N] == rows["split"].tolist()
    assert [found.domains[i] for i in found.domain_N] == rows["domain"].tolist()
    assert (found.data_hash, found.fingerprint) == ("hash", backbone.fingerprint)
    for row in (0, 7, len(rows) - 1):
        picture = Image.open(io.BytesIO(rows["image"].iloc[row]["bytes"]))
        own = backbone.encode_images(backbone.transform(picture)[None])[0]
        torch.testing.assert_close(found.features_NE[row], own, rtol=0, atol=64 * EPS)


def test_the_first_view_is_the_plain_one_and_the_others_are_not(
    backbone: Backbone, manifest: Manifest
) -> None:
    found = encode_task(backbone, manifest, "hash", config())
    is_train = found.split_N == SPLITS.index("train")
    assert found.views_NVE.shape == (int(is_train.sum()), 3, 32)
    assert torch.equal(found.views_NVE[:, 0], found.features_NE[is_train])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        difference = found.views_NVE[:, first] - found.views_NVE[:, second]
        assert (difference.norm(dim=-1) > 100 * EPS).float().mean() > 0.9
    none = encode_task(backbone, manifest, "hash", config(views=0))
    assert torch.equal(none.views_NVE[:, 0], found.views_NVE[:, 0])


def test_the_seed_fixes_the_crops_and_batches_do_not_matter(
    backbone: Backbone, manifest: Manifest
) -> None:
    torch.manual_seed(5)
    first = encode_task(backbone, manifest, "hash", config())
    torch.manual_seed(6)
    same = encode_task(backbone, manifest, "hash", config())
    batched = encode_task(backbone, manifest, "hash", config(batch_size=7))
    other = encode_task(backbone, manifest, "hash", config(seed=2))
    assert torch.equal(first.views_NVE, same.views_NVE)
    torch.testing.assert_close(first.views_NVE, batched.views_NVE, rtol=0, atol=64 * EPS)
    assert not torch.allclose(first.views_NVE[:, 1:], other.views_NVE[:, 1:])


def test_crops_leave_the_global_random_state_alone(manifest: Manifest) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    pictures = Pictures(manifest.rows["image"].tolist()[:2], lambda _: torch.rand(3, 2, 2), seed=1)
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(torch.rand(1), expected)


def broken_chunk(png: bytes) -> bytes:
    """Halve the length of the pixels' chunk: what follows it is no chunk (a SyntaxError)."""
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big") // 2
    return png[: at - 4] + length.to_bytes(4, "big") + png[at:]


def test_all_pictures_that_cannot_be_read_are_named(
    backbone: Backbone, manifest: Manifest, tmp_path: Path
) -> None:
    images = manifest.rows["image"].tolist()
    whole = images[0]["bytes"]
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    broken = {
        1: {"bytes": whole[:-60], "path": "cut.png"},
        4: {"bytes": b"not a picture", "path": "text.png"},
        8: {"bytes": None, "path": str(tmp_path / "gone.png")},
        20: {"bytes": broken_chunk(buffer.getvalue()), "path": "chunk.png"},
    }
    for row, image in broken.items():
        images[row] = image
    bad = replace(manifest, rows=manifest.rows.assign(image=images))
    with pytest.raises(ValueError, match=r"4 image\(s\) cannot be read") as caught:
        encode_task(backbone, bad, "hash", config(batch_size=4))
    for image in broken.values():
        assert image["path"] in str(caught.value)


def test_a_path_serves_as_well_as_bytes(
    backbone: Backbone, manifest: Manifest, tmp_path: Path
) -> None:
    rows = manifest.rows.copy()
    files = []
    for index, image in enumerate(rows["image"]):
        path = tmp_path / f"{index}.png"
        path.write_bytes(image["bytes"])
        files.append({"bytes": None, "path": str(path)})
    on_disk = replace(manifest, rows=rows.assign(image=files))
    found = encode_task(backbone, on_disk, "hash", config(views=1))
    assert torch.equal(
        found.views_NVE, encode_task(backbone, manifest, "hash", config(views=1)).views_NVE
    )
