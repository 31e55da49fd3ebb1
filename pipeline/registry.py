"""The winners as registered MLflow models: built, logged, versioned, and found by alias.

A version holds the prompts of all tasks of one role, and is made once for the same content.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean
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

from pipeline.backbone import BackboneConfig
from pipeline.provenance import file_hash, git_commit, value_hash
from pipeline.stored_prompt import load_prompt
from pipeline.tracking import Tracker

ROLES = ("champion", "compact")
PACKAGE = Path(__file__).parent
REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
)
SCORES = ("base", "new", "harmonic_mean")


@dataclass(frozen=True)
class Release:
    """What becomes one version.

    Attributes:
        role: and alias: champion or compact.
        study: the sweep that chose it.
        seed: of all its prompts. It must be fixed before any test image is seen.
        prompts: the file of each task; the first task is the model's default.
        backbone: a folder travels with the model, a name only as a name.
        fingerprint: of the backbone.
        data_hash: of all tasks.
    """

    role: str
    study: str
    seed: int
    prompts: dict[str, Path]
    backbone: BackboneConfig
    fingerprint: str
    data_hash: str

    @property
    def backbone_folder(self) -> Path | None:
        """The backbone's folder, or None if it is a name."""
        folder = Path(self.backbone.name)
        return folder if folder.is_dir() else None

    @property
    def about(self) -> dict[str, Any]:
        """The model's `model.json`."""
        return {
            "role": self.role,
            "study": self.study,
            "seed": self.seed,
            "tasks": list(self.prompts),
            "backbone": {"name": self.backbone.name, "pretrained": self.backbone.pretrained},
            "data_hash": self.data_hash,
        }


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `is_new` tells whether this call made it."""

    role: str
    version: str
    content_hash: str
    is_new: bool
    tags: dict[str, str]


def load_abouts(release: Release) -> dict[str, dict[str, Any]]:
    """Return each prompt's description.

    Raises:
        ValueError: if a file is missing, or is not of this role, task, seed and backbone.
    """
    abouts: dict[str, dict[str, Any]] = {}
    for task, path in release.prompts.items():
        _, abouts[task] = load_prompt(path)
        found = tuple(abouts[task][key] for key in ("method", "task", "seed"))
        if found != (release.role, task, release.seed):
            raise ValueError(
                f"{path}: found {found}; allowed is "
                f"{(release.role, task, release.seed)}; run `dvc repro evaluate`"
            )
        learned_for = abouts[task]["backbone"]["fingerprint"]
        if learned_for != release.fingerprint:
            raise ValueError(
                f"{path}: learned for a backbone with fingerprint {learned_for}; found is "
                f"{release.fingerprint} ({release.backbone.name}); run `dvc repro evaluate`"
            )
    return abouts


def version_tags(release: Release, abouts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what a version says of itself.

    Scores are test accuracies in [0, 1] of the registered seed, mean over tasks; `size_bytes` is
    the learned state of one task's prompt, the largest if they differ.
    """
    first = next(iter(abouts.values()))
    settings = first["settings"]["prompt"]
    results = [about["result"] for about in abouts.values()]
    scores = {name: f"{mean(result[name] for result in results):.6f}" for name in SCORES}
    return {
        "role": release.role,
        "study": release.study,
        "seed": str(release.seed),
        **{key: str(settings[key]) for key in ("rank", "bits", "n_ctx")},
        "size_bytes": str(max(result["size_bytes"] for result in results)),
        **scores,
        "data_hash": release.data_hash,
        "backbone": release.fingerprint,
        "git_commit": git_commit(),
    }


def requirements() -> list[str]:
    """Return the packages that a model needs, with the versions in use."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def served_modules() -> list[str]:
    """Return the modules of this package that `served_model.py` imports, itself, and theirs."""
    found, todo = {"__init__"}, ["served_model"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                package, _, module = node.module.partition(".")
                todo += [module] if package == PACKAGE.name else []
    return sorted(found)


def contents(release: Release) -> dict[str, Path]:
    """Return the files that the model is made of, by their place in it."""
    files = {f"prompts/{task}.safetensors": path for task, path in release.prompts.items()}
    files |= {f"code/{PACKAGE.name}/{name}.py": PACKAGE / f"{name}.py" for name in served_modules()}
    folder = release.backbone_folder
    for path in sorted(folder.rglob("*")) if folder else []:
        place = path.relative_to(folder or "")
        if path.is_file() and not any(part.startswith(".") for part in place.parts):
            files[f"backbone/{place.as_posix()}"] = path
    return files


def content_hash(release: Release) -> str:
    """Return the SHA-256 of all that the model is made of: files, description, packages."""
    hashes = {place: file_hash(path) for place, path in contents(release).items()}
    return value_hash([release.about, hashes, requirements()])


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
                (f"{task}/{score}", about["result"][score], 0)
                for task, about in abouts.items()
                for score in SCORES
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
