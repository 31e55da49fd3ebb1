"""Own pictures in folders."""

import unicodedata
from pathlib import Path

import pytest

from pipeline.clip.backbone import Backbone
from pipeline.data.config import FolderConfig, Shares
from pipeline.data.datasets import folder
from pipeline.data.datasets.folder import build, find
from pipeline.data.manifest import check_manifest, load_manifest, save_manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.extract import encode_task
from tests.helpers.pictures import put


def config(root: Path, **changes: object) -> FolderConfig:
    plain = {
        "root": str(root),
        "template": "a photo of a {}.",
        "shares": Shares(train=0.5, val=0.2, test=0.3),
        "seed": 1,
    }
    return FolderConfig(**{**plain, **changes})


def make(root: Path, *classes: str, count: int = 10, start: int = 0) -> None:
    """Put pictures into class folders; all are different."""
    for k, name in enumerate(classes):
        for i in range(count):
            put(root / name / f"{i}.jpg", start + 100 * k + i)


def test_a_class_is_a_folder_with_underscores_as_spaces(tmp_path: Path) -> None:
    make(tmp_path / "pets", "grey_parrot", "cat", "Dog")
    put(tmp_path / "pets/cat/garden/deep.PNG", 5000)
    put(tmp_path / "pets/cat/.hidden.jpg", 5001)
    put(tmp_path / "pets/.trash/x.jpg", 5002)
    (tmp_path / "pets/cat/notes.txt").write_text("no picture")
    (tmp_path / "pets/readme.md").write_text("no class")
    find(config(tmp_path), ["pets"])
    manifest = build(config(tmp_path), "pets")
    check_manifest(manifest, tmp_path)
    assert manifest.class_names == ["Dog", "cat", "grey parrot"]
    assert manifest.template == "a photo of a {}."
    paths = [image["path"] for image in manifest.rows["image"]]
    assert len(paths) == 31
    assert paths == sorted(paths)
    assert "pets/cat/garden/deep.PNG" in paths
    for row in manifest.rows.to_dict("records"):
        assert row["image"]["path"].split("/")[1].replace("_", " ") == row["class_name"]
        assert row["image"]["bytes"] is None
    assert manifest.counts == {"train": 16, "val": 6, "test": 9}
    assert set(manifest.rows["domain"]) == {"all"}


def test_the_order_of_directories_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "pets", "cat", "dog", "fox")
    expected = build(config(tmp_path), "pets")
    listing = folder.find_files
    monkeypatch.setattr(folder, "find_files", lambda path: listing(path)[::-1])
    again = build(config(tmp_path), "pets")
    assert again.rows.to_dict("records") == expected.rows.to_dict("records")
    assert again.summary == expected.summary


def test_given_splits_are_kept(tmp_path: Path) -> None:
    classes = ("cat", "dog", "fox")
    for start, split in ((0, "train"), (1000, "val"), (2000, "test")):
        make(tmp_path / "pets" / split, *classes, count=4, start=start)
    manifest = build(config(tmp_path), "pets")
    check_manifest(manifest, tmp_path)
    for row in manifest.rows.to_dict("records"):
        assert row["image"]["path"].split("/")[1] == row["split"]
    assert manifest.class_names == list(classes)
    assert manifest.notes["splits_made"] == []


def test_validation_is_taken_out_of_train_if_it_is_not_given(tmp_path: Path) -> None:
    make(tmp_path / "pets/train", "cat", "dog", "fox", count=7)
    make(tmp_path / "pets/test", "cat", "dog", "fox", count=3, start=1000)
    manifest = build(config(tmp_path), "pets")
    assert manifest.counts == {"train": 15, "val": 6, "test": 9}
    assert manifest.notes["splits_made"] == ["val"]
    tested = manifest.rows[manifest.rows["split"] == "test"]["image"]
    assert all(image["path"].startswith("pets/test/") for image in tested)


def test_folders_of_splits_need_train_and_test(tmp_path: Path) -> None:
    make(tmp_path / "pets/train", "cat", "dog", "fox")
    make(tmp_path / "pets/val", "cat", "dog", "fox", start=1000)
    with pytest.raises(ValueError, match=r"pets: got folders \['train', 'val'\]; expected"):
        build(config(tmp_path), "pets")
    make(tmp_path / "vehicles", "train", "car", "plane")
    assert build(config(tmp_path), "vehicles").class_names == ["car", "plane", "train"]


def test_all_missing_tasks_are_one_message_with_the_layout(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="<task>/<class>/") as caught:
        find(config(tmp_path), ["pets", "empty"])
    assert f"{tmp_path}/pets: missing" in str(caught.value)
    assert f"{tmp_path}/empty: no folder in it" in str(caught.value)


def test_empty_and_equal_classes_are_errors(tmp_path: Path) -> None:
    make(tmp_path / "pets", "red_fox", "red fox", "cat")
    (tmp_path / "pets/dog").mkdir()
    with pytest.raises(ValueError, match="2 problem") as caught:
        build(config(tmp_path), "pets")
    assert "pets/dog: no picture; expected files .bmp" in str(caught.value)
    assert "both are class 'red fox'" in str(caught.value)


def test_identical_pictures_in_two_classes_are_an_error(tmp_path: Path) -> None:
    make(tmp_path / "pets", "cat", "dog", "fox")
    put(tmp_path / "pets/dog/same.jpg", 3)
    with pytest.raises(ValueError, match=r"pets/cat/3.jpg \(cat\) = pets/dog/same.jpg \(dog\)"):
        build(config(tmp_path), "pets")


def test_copies_across_given_splits_leave_the_test(tmp_path: Path) -> None:
    make(tmp_path / "pets/train", "cat", "dog", "fox", count=7)
    make(tmp_path / "pets/test", "cat", "dog", "fox", count=3, start=3)
    manifest = build(config(tmp_path), "pets")
    check_manifest(manifest, tmp_path)
    assert manifest.counts["test"] == 9, "the test is whole"
    assert manifest.notes["left_out"] == 9
    assert ["pets/test/cat/0.jpg", "pets/train/cat/3.jpg"] in manifest.notes["copies"]


def test_names_agree_between_machines(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "käfer") for form in ("NFC", "NFD"))
    for place, name in (("a", composed), ("b", decomposed)):
        make(tmp_path / place / "pets", name, "kzz", "cat")
    first, second = (build(config(tmp_path / place), "pets") for place in ("a", "b"))
    assert first.class_names == second.class_names == ["cat", "kzz", composed]
    assert first.rows["split"].tolist() == second.rows["split"].tolist()


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "cat", "dog", "fox")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/pets").symlink_to(tmp_path / "elsewhere")
    assert len(build(config(tmp_path / "root"), "pets").rows) == 30


def test_a_changed_file_changes_the_hash_of_its_task_alone(tmp_path: Path) -> None:
    for task in ("pets", "plants"):
        make(tmp_path / task, "a", "b", "c")
    tasks = ["pets", "plants"]
    before = find(config(tmp_path), tasks)
    assert find(config(tmp_path), tasks) == before
    put(tmp_path / "plants/a/new.jpg", 77)
    added = find(config(tmp_path), tasks)
    assert [task for task in tasks if added[task] != before[task]] == ["plants"]
    (tmp_path / "pets/a/0.jpg").write_bytes(b"changed")
    assert find(config(tmp_path), tasks)["pets"] != before["pets"]


def test_pictures_in_folders_become_features(tmp_path: Path, backbone: Backbone) -> None:
    make(tmp_path / "pets", "cat", "dog", "fox", count=4)
    path = tmp_path / "pets.parquet"
    save_manifest(path, build(config(tmp_path), "pets"), tmp_path)
    plain = FeaturesConfig(
        views=1, crop_scale=(0.7, 1.0), flip=False, batch_size=4, workers=0, seed=1
    )
    features = encode_task(backbone, load_manifest(path, root=tmp_path), "h", plain)
    assert features.features_NE.shape == (12, 32)
    assert features.views_NVE.shape[:2] == (6, 2)
    assert features.domains == ("all",)
    assert features.shot_domains == ["all"]
