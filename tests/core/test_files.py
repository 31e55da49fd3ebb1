"""Files appear complete or not at all, and come back as they were."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import paths
from pipeline.core.files import clear_folder, load_json, save_json, write_atomic
from pipeline.features.files import load_features, save_features
from pipeline.features.task import TaskFeatures


def test_features_round_trip(features: TaskFeatures, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "toy.safetensors"
    save_features(path, features)
    loaded = load_features(path)
    for field in fields(features):
        found, expected = getattr(loaded, field.name), getattr(features, field.name)
        if isinstance(expected, torch.Tensor):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        else:
            assert found == expected
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_features_are_equal_files(features: TaskFeatures, tmp_path: Path) -> None:
    paths_of_copies = [tmp_path / f"{copy}.safetensors" for copy in range(9)]
    for path in paths_of_copies:
        save_features(path, features)
    assert len({path.read_bytes() for path in paths_of_copies}) == 1


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "truncated", "foreign", "list", "lacks a field"]
)
def test_a_damaged_cache_file_is_an_error_with_its_name(
    features: TaskFeatures, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "toy.safetensors"
    save_features(path, features)
    tensors = {"features_NE": features.features_NE}
    if kind == "missing":
        path.unlink()
    elif kind in ("empty", "truncated"):
        path.write_bytes(path.read_bytes()[: 0 if kind == "empty" else -5])
    elif kind == "foreign":
        save_file(tensors, path)
    else:
        save_file(tensors, path, metadata={"loqua": "[1]" if kind == "list" else '{"name": "x"}'})
    with pytest.raises(ValueError, match=r"toy\.safetensors: .*dvc repro features"):
        load_features(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    save_json(path, {"old": 1})

    def half(temporary: Path) -> None:
        temporary.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, half)
    assert load_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        save_json(path, {"score": float("nan")})
    assert not path.exists()
    with pytest.raises(ValueError, match="value.json: cannot be read"):
        load_json(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="value.json: cannot be read"):
        load_json(path)


def test_clear_folder_empties(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    clear_folder(folder)
    (folder / "old").write_text("x")
    assert list(clear_folder(folder).iterdir()) == []


def test_every_prompt_has_a_file_of_its_own() -> None:
    keys = [(role, task, seed) for role in ("a", "b") for task in ("x", "x-1") for seed in (1, 2)]
    assert len({paths.prompt_path(*key) for key in keys}) == len(keys)
