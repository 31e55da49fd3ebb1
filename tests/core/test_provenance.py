"""Hashes tell values apart, not spellings."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.core.hashes import file_hash, value_hash
from pipeline.core.provenance import PACKAGES, git_commit, versions


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"loqua")
    assert file_hash(path) == hashlib.sha256(b"loqua").hexdigest()


def test_value_hash_ignores_the_order_of_keys_only() -> None:
    value = {"a": [1, 2], "b": {"c": None, "d": 0.1}}
    assert value_hash(value) == value_hash({"b": {"d": 0.1, "c": None}, "a": [1, 2]})
    for other in ({**value, "a": [2, 1]}, {**value, "e": 1}, {**value, "a": ["1", 2]}):
        assert value_hash(other) != value_hash(value)


def test_versions_are_known() -> None:
    assert set(versions()) == set(PACKAGES)
    assert all(re.match(r"\d+\.", number) for number in versions().values())


def test_git_commit_tells_dirty_trees_and_missing_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == "unknown"
    (tmp_path / "file").write_text("1")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], check=True)
    assert re.fullmatch("[0-9a-f]{40}", git_commit())
    (tmp_path / "file").write_text("2")
    assert re.fullmatch("[0-9a-f]{40}-dirty", git_commit())
