"""The CoOp benchmark's data sets: read as published, from miniatures of their true layouts."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.config import CoopConfig
from pipeline.data.datasets import coop
from pipeline.data.datasets.coop import build, find
from pipeline.data.datasets.coop_catalog import DATA_SETS
from pipeline.data.datasets.coop_download import DOWNLOADS
from pipeline.data.manifest import Manifest, check_manifest
from tests.helpers.pictures import (
    IMAGENET_VARIANTS,
    WNIDS,
    ZHOU,
    make_aircraft,
    make_benchmark,
    make_imagenet,
    make_v2,
    make_variant,
    make_zhou,
    put,
)

TEMPLATES = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}
TEST_ONLY = {"imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"}


def config(root: Path, **changes: object) -> CoopConfig:
    return CoopConfig(**{"root": str(root), "download": False, "seed": 1, **changes})


def entries(manifest: Manifest) -> list[tuple[str, str, int, str]]:
    """Split, path, label and class name of every image, in order."""
    rows = manifest.rows.to_dict("records")
    return [(r["split"], r["image"]["path"], r["label"], r["class_name"]) for r in rows]


def test_the_benchmark_is_whole_and_prompted_as_published() -> None:
    assert len(DATA_SETS) == 15
    photo = "a photo of a {}."
    assert {name: data.template for name, data in DATA_SETS.items()} == {
        name: TEMPLATES.get(name, photo) for name in DATA_SETS
    }
    assert {name for name, data in DATA_SETS.items() if data.splits == ("test",)} == TEST_ONLY
    assert {n for n, d in DATA_SETS.items() if d.splits == ("train", "test")} == {"imagenet"}


@pytest.mark.parametrize("name", ZHOU)
def test_split_files_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    lists = make_zhou(tmp_path, name)
    find(config(tmp_path), [name])
    manifest = build(config(tmp_path), name)
    check_manifest(manifest, tmp_path)
    folder, images, _ = ZHOU[name]
    below = folder if images == "." else f"{folder}/{images}"
    assert entries(manifest) == [
        (split, f"{below}/{path}", label, class_name.replace("_", " "))
        for split in ("train", "val", "test")
        for path, label, class_name in lists[split]
    ]
    assert manifest.class_names == ["cat", "dog house", "apple pie", "Boeing 747"]
    assert manifest.template == DATA_SETS[name].template
    assert manifest.counts == {"train": 5, "val": 4, "test": 5}
    assert set(manifest.rows["domain"]) == {"all"}


def test_aircraft_is_labelled_in_the_order_of_its_variants(tmp_path: Path) -> None:
    make_aircraft(tmp_path)
    find(config(tmp_path), ["fgvc_aircraft"])
    manifest = build(config(tmp_path), "fgvc_aircraft")
    check_manifest(manifest, tmp_path)
    assert manifest.class_names == ["707-320", "F-16A/B", "A300B4", "Yak-42"]
    train = [entry for entry in entries(manifest) if entry[0] == "train"]
    assert train[:3] == [
        ("train", "fgvc_aircraft/images/0000000.jpg", 0, "707-320"),
        ("train", "fgvc_aircraft/images/0000001.jpg", 3, "Yak-42"),
        ("train", "fgvc_aircraft/images/0000002.jpg", 2, "A300B4"),
    ]
    assert manifest.counts == {"train": 5, "val": 5, "test": 5}


def test_imagenet_is_labelled_by_sorted_folders_and_tested_on_val(tmp_path: Path) -> None:
    make_imagenet(tmp_path)
    find(config(tmp_path), ["imagenet"])
    manifest = build(config(tmp_path), "imagenet")
    check_manifest(manifest, tmp_path)
    assert manifest.splits == ("train", "test")
    assert manifest.class_names == ["great white shark", "crane", "tench", "crane"]
    expected = [
        (split, f"imagenet/images/{folder}/{wnid}/{wnid}_{i}.JPEG", label)
        for split, folder, count in (("train", "train", 2), ("test", "val", 1))
        for label, wnid in enumerate(sorted(WNIDS))
        for i in range(count)
    ]
    assert [entry[:3] for entry in entries(manifest)] == expected


@pytest.mark.parametrize("name", IMAGENET_VARIANTS)
def test_variants_are_tested_only_on_the_classes_that_they_have(tmp_path: Path, name: str) -> None:
    make_variant(tmp_path, name)
    find(config(tmp_path), [name])
    manifest = build(config(tmp_path), name)
    check_manifest(manifest, tmp_path)
    assert manifest.summary.test_only
    assert manifest.counts == {"test": 6}
    assert manifest.class_names == ["great white shark", "tench", "crane"]
    folder, images = IMAGENET_VARIANTS[name]
    assert entries(manifest)[0] == (
        "test",
        f"{folder}/{images}/n01/n01_0.JPEG",
        0,
        "great white shark",
    )
    assert sorted(Counter(manifest.rows["label"]).items()) == [(0, 2), (1, 2), (2, 2)]


def test_imagenet_v2_is_labelled_by_number_not_by_name(tmp_path: Path) -> None:
    make_v2(tmp_path)
    find(config(tmp_path), ["imagenetv2"])
    manifest = build(config(tmp_path), "imagenetv2")
    check_manifest(manifest, tmp_path)
    assert manifest.class_names == [f"class {i}" for i in range(12)]
    paths = [path.rpartition("-val/")[2] for _, path, _, _ in entries(manifest)]
    assert paths == [f"{i}/{i}_0.JPEG" for i in range(12)]


def test_all_that_is_missing_of_all_data_sets_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: 15 of 15 task") as caught:
        find(config(tmp_path), list(DATA_SETS))
    message = str(caught.value)
    assert len(message.splitlines()) == 16
    for name, data in DATA_SETS.items():
        [line] = [line for line in message.splitlines() if f"- {name}: " in line]
        assert str(tmp_path / data.folder / data.images) in line
        assert f"expected in {tmp_path / data.folder}: {data.images}, " in line
        assert all(file in line for file in data.files)
        assert ("prepare.coop.download: true" in line) == (name in DOWNLOADS)
        assert ("bring a copy" in line) == (name not in DOWNLOADS)

    make_benchmark(tmp_path)
    assert set(find(config(tmp_path), list(DATA_SETS))) == set(DATA_SETS)
    (tmp_path / "food-101/images/some_class/im_3.jpg").unlink()
    (tmp_path / "food-101/images/some_class/im_200.jpg").unlink()
    (tmp_path / "imagenet-rendition/classnames.txt").unlink()
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text('{"train": [')
    (tmp_path / "fgvc_aircraft/variants.txt").write_text("707-320\n")
    with pytest.raises(ValueError, match="4 of 15 task") as caught:
        find(config(tmp_path), list(DATA_SETS))
    message = str(caught.value)
    assert "food101: missing 2 of 14 images, for instance" in message
    assert "some_class/im_3.jpg" in message
    assert f"imagenet_r: missing {tmp_path}/imagenet-rendition/classnames.txt" in message
    assert "DescribableTextures.json: not a readable split file" in message
    assert "images_variant_train.txt: variants that are not in variants.txt\n  - A300B4" in message


def test_unknown_names_are_refused_with_all_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"expected names of \['imagenet', 'caltech101', .*\n  - 'pets'"
    ):
        find(config(tmp_path), ["pets", "dtd"])


def test_folders_that_are_no_class_are_named(tmp_path: Path) -> None:
    make_variant(tmp_path, "imagenet_a")
    make_v2(tmp_path)
    put(tmp_path / "imagenet-adversarial/imagenet-a/n77/x.JPEG")
    put(tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val/12/x.JPEG")
    with pytest.raises(ValueError, match="2 of 2") as caught:
        find(config(tmp_path), ["imagenet_a", "imagenetv2"])
    assert "not in" in str(caught.value)
    assert "- n77" in str(caught.value)
    assert "- 12" in str(caught.value)


def make_folders(images: Path, counts: dict[str, int], reverse: bool = False) -> None:
    for name in sorted(counts, reverse=reverse):
        for i in sorted(range(counts[name]), reverse=reverse):
            put(images / name / f"{name}_{i}.jpg", i)


@pytest.mark.parametrize("seed", [1, 2])
def test_without_a_split_file_a_seeded_one_is_made_and_marked(tmp_path: Path, seed: int) -> None:
    counts = {"banded": 10, "zigzagged": 21, "dotted": 3}
    for place, reverse in (("a", False), ("b", True)):
        make_folders(tmp_path / place / "dtd/images", counts, reverse)
    manifest, other = (build(config(tmp_path / place, seed=seed), "dtd") for place in ("a", "b"))
    find(config(tmp_path / "a", seed=seed), ["dtd"])
    check_manifest(manifest, tmp_path / "a")
    assert entries(manifest) == entries(other), "independent of directory order"
    assert manifest.class_names == ["banded", "dotted", "zigzagged"]
    found = Counter((name, split) for split, _, _, name in entries(manifest))
    for name, (train, val, test) in {
        "banded": (5, 2, 3), "dotted": (1, 1, 1), "zigzagged": (10, 4, 7)
    }.items():  # fmt: skip
        assert [found[name, split] for split in ("train", "val", "test")] == [train, val, test]
    paths = [path for _, path, _, _ in entries(manifest)]
    assert len(set(paths)) == len(paths) == 34
    assert manifest.notes["comparable"] is False
    reason = f"no split_zhou_DescribableTextures.json: a split of our own, 50/20/30 .* seed {seed}"
    assert re.match(reason, manifest.notes["reason"])
    assert len(manifest.summary.split["val"]) == 7
    assert "not comparable with published results: no split_zhou" in manifest.remarks[0]


def test_empty_folders_and_classes_too_small_to_split_are_told(tmp_path: Path) -> None:
    make_folders(tmp_path / "dtd/images", {"banded": 4, "dotted": 2, "zigzagged": 1})
    (tmp_path / "food-101/images").mkdir(parents=True)
    make_imagenet(tmp_path)
    for folder in (tmp_path / "imagenet/images/train").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="3 of 3") as caught:
        find(config(tmp_path), ["dtd", "food101", "imagenet"])
    message = str(caught.value)
    assert "split; expected 3 or more images\n  - dotted: 2\n  - zigzagged: 1" in message
    assert f"food101: no train and no val and no test images in {tmp_path}/food-101" in message
    assert f"imagenet: no train images in {tmp_path}/imagenet/images" in message


def test_another_seed_makes_another_split(tmp_path: Path) -> None:
    make_folders(tmp_path / "dtd/images", {"banded": 20, "dotted": 20, "zigzagged": 20})
    first, second = (entries(build(config(tmp_path, seed=s), "dtd")) for s in (1, 2))
    assert first != second
    assert sorted(e[1:] for e in first) == sorted(e[1:] for e in second)


def test_made_splits_use_the_names_of_the_public_code(tmp_path: Path) -> None:
    make_folders(
        tmp_path / "caltech-101/101_ObjectCategories",
        {"BACKGROUND_Google": 4, "Faces_easy": 4, "Faces": 4, "airplanes": 4, "wild_cat": 4},
    )
    assert build(config(tmp_path), "caltech101").class_names == ["face", "airplane", "wild cat"]
    make_folders(tmp_path / "eurosat/2750", {"AnnualCrop": 4, "River": 4, "SeaLake": 4})
    names = build(config(tmp_path), "eurosat").class_names
    assert names == ["Annual Crop Land", "River", "Sea or Lake"]
    for i in range(12):
        breed = ("Great_Pyrenees", "boxer", "Bengal")[i % 3]
        put(tmp_path / f"oxford_pets/images/{breed}_{i}.jpg", i)
        place = ("a/abbey", "a/apartment_building/outdoor", "z/zoo")[i % 3]
        put(tmp_path / f"sun397/SUN397/{place}/sun_{i}.jpg", i)
    (tmp_path / "oxford_pets/images/Bengal_1.mat").write_text("not a picture")
    assert build(config(tmp_path), "oxford_pets").class_names == [
        "bengal", "boxer", "great pyrenees"
    ]  # fmt: skip
    assert build(config(tmp_path), "sun397").class_names == [
        "abbey", "outdoor apartment building", "zoo"
    ]  # fmt: skip


def test_a_set_whose_classes_only_the_split_file_tells_needs_it(tmp_path: Path) -> None:
    for name in ("oxford_flowers", "stanford_cars"):
        make_zhou(tmp_path, name, with_split=False)
    with pytest.raises(ValueError, match="2 of 2") as caught:
        find(config(tmp_path), ["oxford_flowers", "stanford_cars"])
    assert "missing " + str(tmp_path / "oxford_flowers/split_zhou_OxfordF") in str(caught.value)
    assert "missing " + str(tmp_path / "stanford_cars/split_zhou_Stanf") in str(caught.value)


def test_only_data_of_the_published_size_are_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zhou(tmp_path, "oxford_pets")
    notes = build(config(tmp_path), "oxford_pets").notes
    assert notes["comparable"] is False
    assert notes["reason"] == (
        "4 classes, 5 training and 5 test images; published are 37, 2944 and 3669"
    )
    mini = replace(DATA_SETS["oxford_pets"], published=(4, 5, 5))
    monkeypatch.setitem(coop.DATA_SETS, "oxford_pets", mini)
    manifest = build(config(tmp_path), "oxford_pets")
    assert manifest.notes == {"source": "coop", "comparable": True}
    assert manifest.remarks == []


def test_a_changed_split_file_changes_the_hash_of_that_set_alone(tmp_path: Path) -> None:
    for name in ("dtd", "food101", "oxford_pets"):
        make_zhou(tmp_path, name)
    names = ["dtd", "food101", "oxford_pets"]
    before = find(config(tmp_path), names)
    assert find(config(tmp_path), names) == before
    path = tmp_path / "food-101/split_zhou_Food101.json"
    path.write_text(path.read_text().replace("apple_pie", "apple_tart"))
    after = find(config(tmp_path), names)
    assert [name for name in names if before[name] != after[name]] == ["food101"]
    shutil.move(tmp_path, moved := tmp_path.with_name(tmp_path.name + "-moved"))
    assert find(config(moved), names) == after, "the same wherever the data lie"
