"""Own pictures: no picture in two splits, every class in every split, the same on every machine."""

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipeline.data.config import OwnConfig, Shares
from pipeline.data.datasets.custom import (
    Picture,
    build_own,
    complete_splits,
    split_counts,
    spoken,
    without_copies,
)
from pipeline.data.manifest import check_manifest

SHARES = Shares(train=0.5, val=0.2, test=0.3)
CONFIG = OwnConfig(root="x", template="a {}.", shares=SHARES, seed=1)


def pictures(*sizes: int, split: str | None = None) -> list[Picture]:
    """Return pictures of classes of these sizes, all different."""
    return [
        Picture(
            f"{label}/{i}.png",
            {"bytes": b"x", "path": f"{label}/{i}.png"},
            hashlib.sha256(f"{label} {i}".encode()).hexdigest(),
            label,
            f"class {label}",
            split,
        )
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


def splits_of(found: list[Picture]) -> dict[str, str | None]:
    return {picture.digest: picture.split for picture in found}


@pytest.mark.parametrize("shares", [SHARES, Shares(train=0.1, val=0.1, test=0.8),
                                    Shares(train=0.98, val=0.01, test=0.01)])  # fmt: skip
@pytest.mark.parametrize("count", [3, 4, 5, 7, 10, 33, 100])
def test_every_class_gets_its_shares_and_one_picture_at_least(count: int, shares: Shares) -> None:
    n_train, n_val = split_counts(count, shares)
    n_test = count - n_train - n_val
    assert min(n_train, n_val, n_test) >= 1
    for n, share in ((n_train, shares.train), (n_val, shares.val), (n_test, shares.test)):
        assert abs(n - count * share) <= 2
    found = complete_splits("toy", pictures(count, 3, count), shares, 1)
    for label, expected in ((0, (n_train, n_val, n_test)), (1, (1, 1, 1))):
        counts = Counter(p.split for p in found if p.label == label)
        assert tuple(counts[split] for split in ("train", "val", "test")) == expected
    n_train, n_val = split_counts(count, shares, with_test=False)
    assert n_train + n_val == count
    assert min(n_train, n_val) >= 1
    assert abs(n_val - count * shares.val / (shares.train + shares.val)) <= 1


def test_the_public_ratio_is_50_20_30() -> None:
    assert [split_counts(n, SHARES) for n in (10, 20, 100)] == [(5, 2), (10, 4), (50, 20)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_split_depends_on_seed_and_content_alone(seed: int) -> None:
    plain = pictures(20, 30)
    expected = splits_of(complete_splits("toy", plain, SHARES, seed))
    shuffled = [replace(p, where="elsewhere", image={}) for p in plain]
    random.Random(0).shuffle(shuffled)
    assert splits_of(complete_splits("toy", shuffled, SHARES, seed)) == expected
    other = splits_of(complete_splits("toy", plain, SHARES, seed + 10))
    assert other != expected
    assert Counter(other.values()) == Counter(expected.values())


def test_another_picture_moves_few() -> None:
    before = splits_of(complete_splits("toy", pictures(30, 20), SHARES, 1))
    after = splits_of(complete_splits("toy", pictures(31, 20), SHARES, 1))
    assert sum(before[digest] != after[digest] for digest in before) <= 2


def test_given_splits_stay_and_missing_validation_comes_from_train() -> None:
    given = pictures(10, 10, split="train") + [
        replace(p, digest=p.digest + "t") for p in pictures(4, 4, split="test")
    ]
    found = complete_splits("toy", given, SHARES, 1)
    for before, after in zip(given, found, strict=True):
        assert after.split == before.split or (before.split, after.split) == ("train", "val")
    assert Counter(p.split for p in found) == {"train": 14, "val": 6, "test": 8}
    assert complete_splits("toy", found, SHARES, 2) == found, "complete splits are left alone"


def test_half_given_splits_and_small_classes_are_errors() -> None:
    some = [*pictures(3, split="train"), *pictures(3, 3)]
    with pytest.raises(ValueError, match="task toy: got splits none, train; expected none at all"):
        complete_splits("toy", some, SHARES, 1)
    with pytest.raises(ValueError, match="splits train, val; expected"):
        complete_splits("toy", pictures(3, split="train") + pictures(3, split="val"), SHARES, 1)
    with pytest.raises(ValueError, match="too small") as caught:
        complete_splits("toy", pictures(2, 5, 1), SHARES, 1)
    assert "'class 0': got 2 different picture(s); expected 3 or more" in str(caught.value)
    assert "'class 2': got 1 different" in str(caught.value)
    assert "'class 1'" not in str(caught.value)


def test_copies_never_straddle_splits() -> None:
    rng = random.Random(3)
    some = pictures(30, 30, 30)
    copies = [replace(p, where=f"copy {i}") for i, p in enumerate(rng.sample(some, 40))]
    mixed = rng.sample(some + copies, 130)
    manifest = build_own(CONFIG, "test", "toy", mixed)
    check_manifest(manifest)
    kept = [image["path"] for image in manifest.rows["image"]]
    assert len(set(kept)) == len(kept) == 90
    assert manifest.notes["left_out"] == 40
    assert sum(len(group) - 1 for group in manifest.notes["copies"]) == 40
    assert "40 identical picture(s) left out: " in manifest.remarks[0]


def test_of_copies_in_given_splits_the_tested_one_stays() -> None:
    train, val, test = (pictures(3, split=split) for split in ("train", "val", "test"))
    alone = [replace(p, digest=f"own {i}") for i, p in enumerate(pictures(3, split="train"))]
    kept, copies = without_copies("toy", [*train, *alone, *val, *test])
    assert kept == [*alone, *test]
    assert len(copies) == 3
    kept, _ = without_copies("toy", [*train, *val])
    assert kept == val
    kept, _ = without_copies("toy", [*train, *train])
    assert kept == train


def test_identical_pictures_of_different_classes_are_all_listed() -> None:
    first, second, third = pictures(1), pictures(2), pictures(1, 1)
    wrong = [
        *first,
        replace(first[0], label=1, class_name="dog", where="dog/7.png"),
        *(replace(p, digest="z", label=i, class_name=str(i)) for i, p in enumerate(second)),
        *third[1:],
    ]
    with pytest.raises(ValueError, match="identical pictures in different classes") as caught:
        without_copies("toy", wrong)
    assert "0/0.png (class 0) = dog/7.png (dog)" in str(caught.value)
    assert "0/0.png (0) = 0/1.png (1)" in str(caught.value)
    assert str(caught.value).count("\n") == 2


def test_class_names_are_spoken_as_in_coop() -> None:
    assert spoken("golden_retriever") == spoken(" golden  retriever_") == "golden retriever"


def test_shares_are_whole_and_templates_have_one_place() -> None:
    with pytest.raises(ValidationError, match="expected a sum of 1"):
        Shares(train=0.5, val=0.2, test=0.2)
    for template in ("a photo", "{} and {}", "a {name}"):
        with pytest.raises(ValidationError):
            OwnConfig(root="x", template=template, shares=SHARES, seed=1)
