"""How a release becomes an MLflow model: its files, its signature, its input example."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array
from PIL import Image

from pipeline.core.code import module_file
from pipeline.registry.release import SERVED, Release, code_files, requirements


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
        files = {f"code/{place}": path for place, path in code_files().items()}
        files |= {f"backbone/{place}": path for place, path in release.tower_files.items()}
        for place, path in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)  # MLflow refuses links
        (folder / "prompts").mkdir()
        for task, file in release.prompts.items():
            (folder / "prompts" / f"{task}.prompt").write_bytes(file.data)
        (folder / "model.json").write_text(json.dumps(release.about, indent=1) + "\n")
        parts = ["model.json", "prompts", *(["backbone"] if release.towers else [])]
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name=release.method,
            python_model=str(module_file(SERVED)),
            code_paths=[str(folder / "code" / "pipeline")],
            artifacts={Path(part).stem: str(folder / part) for part in parts},
            signature=model_signature(next(iter(release.prompts))),
            input_example=input_example(),
            pip_requirements=requirements(),
        )
        return logged
