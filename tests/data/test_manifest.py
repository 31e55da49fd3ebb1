"""A manifest that would fail later is refused at once, with all its problems."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.manifest import (
    SPLITS,
    TEST_ONLY,
    Manifest,
    check_manifest,
    load_manifest,
    save_manifest,
)
from pipeline.data.sampling import Draws
from tests.helpers.reference import sample_shots


def rows(*entries: tuple[int, str, str]) -> pd.DataFrame:
    """Return rows of (label, class name, split)."""
    image = {"bytes": b"x", "path": "x.png"}
    return pd.DataFrame(
        [
            {"image": image, "label": label, "class_name": name, "domain": "flat", "split": split}
            for label, name, split in entries
        ]
    )


GOOD = [
    (label, name, split)
    for label, name in enumerate(["cat", "dog", "red apple"])
    for split in ("train", "val", "test")
]


def test_a_good_manifest_passes(manifest: Manifest) -> None:
    check_manifest(manifest)
    check_manifest(Manifest("toy", "a {}.", rows(*GOOD)))


def test_every_problem_is_listed_at_once() -> None:
    entries = [
        *[entry for entry in GOOD if entry not in [(1, "dog", "test"), (0, "cat", "val")]],
        (0, "lion", "train"),
        (1, "dog", "dev"),
        (4, " ", "train"),
    ]
    frame = rows(*entries)
    frame.at[0, "image"] = {"bytes": None, "path": "/nowhere/a.png"}
    frame.at[1, "image"] = {"bytes": None, "path": None}
    frame.at[2, "image"] = {"bytes": b"", "path": "empty.png"}
    frame.at[3, "image"] = {"bytes": None, "path": "/"}
    with pytest.raises(ValueError, match="task toy: 11 problem") as caught:
        check_manifest(Manifest("toy", "a {}.", frame))
    for problem in (
        "got splits ['dev']; expected ['train', 'val', 'test']",
        "got labels [0, 1, 2, 4]...; expected all of 0 to 3",
        "label 0: got class names ['cat', 'lion']",
        "label 4: got class names [' ']",
        "class 'cat' has no val image",
        "class 'dog' has no test image",
        "class ' ' has no test image",
        "image /nowhere/a.png: no such file",
        "image None: no such file",
        "image empty.png: 0 bytes",
        "image /: no such file",
    ):
        assert problem in str(caught.value)


def test_validation_images_are_needed_for_base_classes_only() -> None:
    without = [entry for entry in GOOD if entry != (2, "red apple", "val")]
    check_manifest(Manifest("toy", "a {}.", rows(*without)))


def test_too_few_classes_to_train_select_and_test() -> None:
    for entries in (GOOD[:6], GOOD[:3]):
        with pytest.raises(ValueError, match=r"class\(es\); expected 3 or more"):
            check_manifest(Manifest("toy", "a {}.", rows(*entries)))


def test_a_long_list_of_problems_is_cut() -> None:
    frame = rows(*GOOD * 10)
    frame["image"] = [{"bytes": None, "path": f"{i}.png"} for i in range(len(frame))]
    with pytest.raises(ValueError, match=r"90 problem[^$]*and 70 more") as caught:
        check_manifest(Manifest("toy", "a {}.", frame))
    assert str(caught.value).count("no such file") == 20


def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "things.parquet"
    save_manifest(path, manifest)
    loaded = load_manifest(path)
    assert (loaded.name, loaded.template) == (manifest.name, manifest.template)
    assert (loaded.splits, loaded.notes) == (SPLITS, {"source": "emoji"})
    assert loaded.images.equals(manifest.images)
    assert loaded.rows["image"].tolist() == manifest.rows["image"].tolist()
    pd.testing.assert_frame_equal(
        loaded.rows.drop(columns="image"), manifest.rows.drop(columns="image")
    )
    light = load_manifest(path, with_images=False)
    assert "image" not in light.rows
    assert light.class_names == manifest.class_names
    assert light.n_encodings(3) == manifest.n_encodings(3) == 45 + 3 * 20


def test_a_task_without_training_or_validation_images_says_so(tmp_path: Path) -> None:
    test_only = [entry for entry in GOOD if entry[2] == "test"]
    with pytest.raises(ValueError, match="no train image"):
        check_manifest(Manifest("toy", "a {}.", rows(*test_only)))
    manifest = Manifest("toy", "a {}.", rows(*test_only[:2]), TEST_ONLY, {"source": "x"})
    save_manifest(tmp_path / "toy.parquet", manifest)
    loaded = load_manifest(tmp_path / "toy.parquet")
    assert (loaded.splits, loaded.notes) == (("test",), {"source": "x"})
    assert loaded.summary.test_only
    assert loaded.remarks == ["test only: a target of transfer"]

    no_val = [entry for entry in GOOD if entry[2] != "val"]
    unswept = Manifest("toy", "a {}.", rows(*no_val), ("train", "test"))
    check_manifest(unswept)
    assert not unswept.summary.test_only
    with pytest.raises(ValueError, match=r"got splits \['train'\]; expected \['test'\]"):
        check_manifest(Manifest("toy", "a {}.", rows(*no_val), TEST_ONLY))


def test_paths_are_kept_below_the_root_and_opened_under_any(tmp_path: Path) -> None:
    frame = rows(*GOOD)
    frame["image"] = [{"bytes": None, "path": f"cats/{i}.png"} for i in range(len(frame) - 1)] + [
        {"bytes": b"x", "path": "cats/at-hand.png"}
    ]
    manifest = Manifest("toy", "a {}.", frame)
    for place in ("here", "there"):
        for i in range(len(frame) - 1):
            (tmp_path / place / "cats").mkdir(parents=True, exist_ok=True)
            (tmp_path / place / f"cats/{i}.png").write_bytes(b"x")
        save_manifest(tmp_path / f"{place}.parquet", manifest, tmp_path / place)
    here, there = (tmp_path / f"{place}.parquet" for place in ("here", "there"))
    assert here.read_bytes() == there.read_bytes(), "a manifest is the same wherever the data lie"
    loaded = load_manifest(here, root=tmp_path / "there").rows["image"].tolist()
    assert loaded[0]["path"] == str(tmp_path / "there/cats/0.png")
    assert loaded[-1] == {"bytes": b"x", "path": "cats/at-hand.png"}
    with pytest.raises(ValueError, match="8 problem"):
        save_manifest(here, manifest, tmp_path / "nowhere")


@pytest.mark.parametrize("shots", [1, 3, 100])
def test_rows_are_chosen_by_the_draws_alone(manifest: Manifest, shots: int) -> None:
    """All of validation and test, and what the public rule draws of training, for every seed."""
    rows, seeds, without = manifest.rows, (1, 5), {0, 3, 44}
    assert manifest.chosen_rows(None).tolist() == list(range(len(rows)))
    pool = [i for i, split in enumerate(rows["split"]) if split == "train" and i not in without]
    others = {i for i, split in enumerate(rows["split"]) if split != "train"} - without
    labels = rows["label"].tolist()
    drawn = {
        pool[position]
        for seed in seeds
        for position in sample_shots([labels[i] for i in pool], shots, seed)
    }
    draws = Draws(seeds, (shots,))
    assert manifest.chosen_rows(draws, without).tolist() == sorted(others | drawn)
    if shots == 100:
        assert manifest.chosen_rows(draws).tolist() == list(range(len(rows)))
    n_train = len(set(manifest.chosen_rows(draws)) & set(np.flatnonzero(rows["split"] == "train")))
    assert manifest.n_encodings(2, draws) == len(manifest.chosen_rows(draws)) + 2 * n_train


def test_a_bad_manifest_is_not_written(manifest: Manifest, tmp_path: Path) -> None:
    bad = replace(manifest, rows=manifest.rows[manifest.rows["split"] != "test"])
    with pytest.raises(ValueError, match="no test image"):
        save_manifest(tmp_path / "x.parquet", bad)
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize("kind", ["missing", "truncated", "foreign", "other columns"])
def test_what_is_no_manifest_is_an_error_with_its_name(
    manifest: Manifest, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "things.parquet"
    save_manifest(path, manifest)
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "foreign":
        manifest.rows.drop(columns="image").assign(image=0).to_parquet(path)
    else:
        pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"things\.parquet: not a readable manifest"):
        load_manifest(path)
