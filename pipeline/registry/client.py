"""The user's side of a registered model: it opens the files, so that the model never has to."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import report_all

AT_ONCE = 128
"""Images that are sent together: their files are in memory."""


def encode_images(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Read image files as a model takes them, in Python or, with `to_dict`, as JSON.

    Returns:
        Column `image`: each file's bytes as base64, in order. The paths stay behind.

    Raises:
        ValueError: naming every file that cannot be read.
    """
    images, problems = [], []
    for path in paths:
        try:
            images.append(base64.b64encode(Path(path).read_bytes()).decode("ascii"))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    report_all(f"{len(problems)} image(s) cannot be read", problems)
    return pd.DataFrame({"image": images})


def predict(
    model_uri: str,
    paths: Sequence[str | Path],
    task: str | None = None,
    classes: Sequence[str] = (),
    candidates: str = "all",
) -> pd.DataFrame:
    """Tell what image files show, by a registered model such as `models:/loqua-emoji@champion`.

    The environment variable MLFLOW_TRACKING_URI says where the registry is.

    Args:
        model_uri: of the model; a version is loaded once per process, an alias is looked up
            every time.
        paths: of the images.
        task: whose prompt is used; None is the model's first task.
        classes: names to choose from, instead of the task's own.
        candidates: `all`, `base` or `new` classes of the task.

    Returns:
        One row per image, indexed by path: `class_name`, `probability`, `top_classes` and
        `top_probabilities`.

    Raises:
        ValueError: if there is no such model, or naming the files that cannot be read.
        MlflowException: naming what is no picture, and wrong parameters.
    """
    from pipeline.registry.load import load_model  # encode_images needs no MLflow

    if not paths:
        raise ValueError("paths: got none; expected at least one image")
    params: dict[str, Any] = {"classes": list(classes), "candidates": candidates}
    if task is not None:
        params["task"] = task
    model = load_model(model_uri)
    parts = [
        pd.DataFrame(model.predict(encode_images(paths[start : start + AT_ONCE]), params=params))
        for start in range(0, len(paths), AT_ONCE)
    ]
    predicted = pd.concat(parts, ignore_index=True)
    return predicted.set_index(pd.Index([str(path) for path in paths], name="path"))
