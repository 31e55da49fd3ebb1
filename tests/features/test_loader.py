"""Pictures come in the order that was asked for, and a crop is the same whoever asks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.clip.backbone import Backbone
from pipeline.data.manifest import Manifest
from pipeline.features.loader import Pictures, cut, load_batches, places
from tests.helpers.toy import features_config, with_images


@pytest.fixture(scope="module")
def pictures(backbone: Backbone, manifest: Manifest) -> Pictures:
    return Pictures(backbone, manifest, features_config())


def test_crops_leave_the_global_random_state_alone(pictures: Pictures) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert not torch.equal(pictures[0, 1], pictures[0, 2])
    assert torch.equal(torch.rand(1), expected)


def test_a_crop_is_numbered_among_training_images(backbone: Backbone, manifest: Manifest) -> None:
    """Validation and test images above a training image do not change its crops."""
    rows = manifest.rows
    order = np.argsort(rows["split"] == "train", kind="stable")
    last = replace(manifest, rows=rows.iloc[order].reset_index(drop=True))
    first = Pictures(backbone, manifest, features_config())
    then = Pictures(backbone, last, features_config())
    n_train = int((rows["split"] == "train").sum())
    for number in (0, 3, n_train - 1):
        row = int(np.flatnonzero(rows["split"] == "train")[number])
        moved = len(rows) - n_train + number
        assert torch.equal(first[row, 2], then[moved, 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_their_order_and_name_what_is_bad(
    backbone: Backbone, manifest: Manifest, workers: int
) -> None:
    images = manifest.rows["image"].tolist()
    images[4], images[20] = ({"bytes": b"", "path": name} for name in ("four", "twenty"))
    pictures = Pictures(backbone, with_images(manifest, images), features_config())
    place_X2 = np.array([[7, 0], [4, 0], [1, 2], [20, 0], [7, 0], [0, 1]])
    parts = [np.array([5, 1]), np.array([3]), np.array([0, 2, 4])]
    batches = list(load_batches(pictures, place_X2, parts, workers))
    assert len(batches) == len(parts)
    for part, (found_n3HW, reasons) in zip(parts, batches, strict=True):
        expected = [pictures[tuple(place)] for place in place_X2[part].tolist()]
        assert reasons == [item if isinstance(item, str) else None for item in expected]
        readable = [item for item in expected if not isinstance(item, str)]
        assert (found_n3HW is None) == (not readable)
        if readable:
            assert torch.equal(found_n3HW, torch.stack(readable))
    named = [reason for _, reasons in batches for reason in reasons if reason]
    assert [reason.partition(":")[0] for reason in named] == ["four", "twenty"]


def test_places_are_all_plain_and_then_crop_by_crop(manifest: Manifest) -> None:
    rows = np.array([2, 19, 21, 44])
    assert manifest.in_split("train")[rows].tolist() == [True, True, False, False]
    assert places(manifest, rows, 2).tolist() == [
        *[[row, 0] for row in rows],
        *[[2, 1], [19, 1]],
        *[[2, 2], [19, 2]],
    ]


def test_keys_tell_pictures_apart_and_nothing_else(backbone: Backbone, manifest: Manifest) -> None:
    images = manifest.rows["image"].tolist()
    renamed = with_images(manifest, [{**image, "path": "another name"} for image in images])
    place_X2 = places(manifest, np.arange(len(images)), 2)
    key_X, same_X = (
        Pictures(backbone, m, features_config()).keys(place_X2) for m in (manifest, renamed)
    )
    assert len(set(key_X.tolist())) == len(place_X2)
    assert np.array_equal(key_X, same_X)


def test_cut_keeps_all_in_order() -> None:
    for count, size in ((10, 3), (9, 3), (2, 5), (0, 4)):
        runs = cut(np.arange(count), size)
        assert [i for run in runs for i in run] == list(range(count))
        assert all(len(run) == size for run in runs[:-1])
        assert all(0 < len(run) <= size for run in runs)
