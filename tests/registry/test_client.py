"""The client opens files, and only the client."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.registry import registry
from pipeline.registry.client import encode_images, predict


def test_encoded_images_are_the_bytes_of_the_files_in_order(tmp_path: Path) -> None:
    """Base64 gives back every byte; a path may be a string."""
    contents = [bytes(range(256)), b"\n\r", b""]
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    frame = encode_images([str(paths[0]), *paths[1:]])
    assert [base64.b64decode(text) for text in frame["image"]] == contents
    assert list(frame.columns) == ["image"]
    assert str(tmp_path) not in frame.to_json(orient="split"), "paths must not reach a server"


def test_every_unreadable_file_is_named(tmp_path: Path) -> None:
    """One message lists them all."""
    (tmp_path / "there").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"2 image\(s\)[\s\S]*gone-1[\s\S]*gone-2"):
        encode_images([tmp_path / "gone-1", tmp_path / "there", tmp_path / "gone-2"])


def test_predict_sends_contents_and_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is left to the model unless given; rows are found by path."""
    sent: list[Any] = []

    class Model:
        def predict(self, frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
            sent.append((frame["image"].tolist(), params))
            return pd.DataFrame({"class_name": ["cat"] * len(frame)})

    monkeypatch.setattr(registry, "load_model", lambda uri: sent.append(uri) or Model())
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    predicted = predict("models:/m@champion", [path], classes=("cat", "dog"))
    assert predicted.loc[str(path), "class_name"] == "cat"
    predict("models:/m@champion", [path], task="pets", candidates="new")
    encoded = [base64.b64encode(b"picture").decode()]
    assert sent == [
        "models:/m@champion",
        (encoded, {"classes": ["cat", "dog"], "candidates": "all"}),
        "models:/m@champion",
        (encoded, {"classes": [], "candidates": "new", "task": "pets"}),
    ]
