"""The winners as registered MLflow models: built, logged, versioned, and found by alias.

A version holds the prompts of all tasks of one role, and is made once for the same content.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array
from PIL import Image

from pipeline.release import (
    PACKAGE,
    Release,
    content_hash,
    contents,
    load_abouts,
    requirements,
    version_tags,
)
from pipeline.tracking import Tracker


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `is_new` tells whether this call made it."""

    role: str
    version: str
    content_hash: str
    is_new: bool
    tags: dict[str, str]


def model_signature(default_task: str) -> ModelSignature:
    """Return the signature.

    The column is a string, which base64 is; MLflow lets bytes pass through it as well, and the
    model checks both. A binary column would be decoded by the server, which skips wrong letters.
    """
    params = [
        ParamSpec("task", DataType.string, default_task),
        ParamSpec("candidates", DataType.string, "all"),
        ParamSpec("classes", DataType.string, [], (-1,)),
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "class_name"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.string), "top_classes"),
        ColSpec(Array(DataType.double), "top_probabilities"),
    ]
    return ModelSignature(
        Schema([ColSpec(DataType.string, "image")]), Schema(outputs), ParamSchema(params)
    )


def input_example() -> pd.DataFrame:
    """Return one small picture as a client sends it."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "orange").save(file, "PNG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode("ascii")]})


def log_model(release: Release) -> ModelInfo:
    """Log the model to the active run."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for place, path in contents(release).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)  # MLflow refuses links
        (folder / "model.json").write_text(json.dumps(release.about, indent=1) + "\n")
        parts = {"model": folder / "model.json", "prompts": folder / "prompts"}
        if release.backbone_folder:
            parts["backbone"] = folder / "backbone"
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name=release.role,
            python_model=str(PACKAGE / "served_model.py"),
            code_paths=[str(folder / "code" / PACKAGE.name)],
            artifacts={name: str(path) for name, path in parts.items()},
            signature=model_signature(next(iter(release.prompts))),
            input_example=input_example(),
            pip_requirements=requirements(),
        )
        return logged


def register(tracker: Tracker, name: str, release: Release) -> Registered:
    """Make sure that the release is a version of model `name`, with its role as alias.

    Repeating it with the same content creates no run and no version.

    Raises:
        ValueError: if a prompt file does not fit the release, or the registry refuses.
    """
    abouts = load_abouts(release)
    digest = content_hash(release)
    try:
        known = find_version(tracker, name, digest)
        number = known or create_version(tracker, name, release, abouts, digest)
        tracker.client.set_registered_model_alias(name, release.role, number)
        tags = tracker.client.get_model_version(name, number).tags
    except MlflowException as error:
        raise ValueError(f"register.name: {name} at {tracker.uri}: {error}") from error
    return Registered(release.role, number, digest, not known, tags)


def find_version(tracker: Tracker, name: str, digest: str) -> str | None:
    """Return the newest version with this content, or None."""
    found = tracker.client.search_model_versions(
        f"name = '{name}' and tag.content_hash = '{digest}'", order_by=["version_number DESC"]
    )
    ready = [str(entry.version) for entry in found if entry.status == "READY"]
    return ready[0] if ready else None


def create_version(
    tracker: Tracker, name: str, release: Release, abouts: dict[str, dict[str, Any]], digest: str
) -> str:
    """Log the model to its run below the study's, and make it a version; return its number."""
    tags = version_tags(release, abouts) | {"content_hash": digest}
    run_id = tracker.open_run(
        f"{release.study}/register/{release.role}",
        f"register {release.role}",
        tags,
        study_run(tracker, release.study),
    )
    with mlflow.start_run(run_id=run_id):  # ends it: FINISHED, or FAILED
        tracker.log(
            run_id,
            tags=tags,
            metrics=[
                (f"{task}/{score}", value, 0)
                for task, about in abouts.items()
                for score, value in about["scores"].items()
            ],
        )
        logged = log_model(release)
    if not tracker.client.search_registered_models(f"name = '{name}'"):
        tracker.client.create_registered_model(name, description="Prompts for CLIP, by Loqua.")
    made = tracker.client.create_model_version(
        name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id
    )
    return str(made.version)


def study_run(tracker: Tracker, study: str) -> str:
    """Return the id of the study's run as it is, or of a new, finished one."""
    found = tracker.find_run(study)
    if found:
        return found
    run_id = tracker.open_run(study, study, {})
    tracker.close_run(run_id)
    return run_id


@lru_cache(maxsize=4)
def load_model(model_uri: str) -> PyFuncModel:
    """Return a registered model, ready to predict."""
    model: PyFuncModel = mlflow.pyfunc.load_model(model_uri)
    return model
