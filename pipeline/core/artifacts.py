"""The only place that names the pipeline's files, and how they are written and read.

Every stage owns the folder `artifacts/<stage>/`. Files appear complete or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.core.workspace import checkout
from pipeline.features.task import TaskFeatures

ROOT = Path("artifacts")
DRAWINGS = Path("data/emoji.parquet")
BACKBONE = ROOT / "pretrain"
MODEL_CARD = BACKBONE / "README.md"
SOURCES = ROOT / "sources"
MANIFESTS = ROOT / "prepare"
FEATURES = ROOT / "features"
TRIALS = ROOT / "sweep" / "trials.json"
WINNERS = ROOT / "sweep" / "winners.json"
STATE = checkout() / ROOT / "state"
"""What must survive between runs and belongs to no stage: the studies, the tracking database, and
features of a task that is not encoded to its end. Experiments that DVC runs in a copy of the
project use that of the checkout."""
CLUSTER = ROOT / "cluster"
"""What was last seen of the state on a cluster's head."""
EVALUATION = ROOT / "evaluate"
RESULTS = EVALUATION / "results.json"
REGISTERED = ROOT / "register" / "models.json"
REPORT = ROOT / "report"
METRICS = REPORT / "metrics.json"
REPORT_PAGE = REPORT / "report.html"
REPORT_TEXT = REPORT / "report.md"
TABLES = REPORT / "tables"
FIGURES = REPORT / "figures"
PLOTS = REPORT / "plots"
"""The rows behind the figures, for DVC."""


def source_path(task: str) -> Path:
    """What was found where a task's data lie."""
    return SOURCES / f"{task}.json"


def manifest_path(task: str) -> Path:
    """The manifest of a task."""
    return MANIFESTS / f"{task}.parquet"


def summary_path(task: str) -> Path:
    """What a task's manifest says of itself, for people and programs without Parquet."""
    return MANIFESTS / f"{task}.json"


def features_path(task: str) -> Path:
    """The cached features of a task."""
    return FEATURES / f"{task}.safetensors"


def shards_path(task: str) -> Path:
    """What is encoded of a task before all of it is; DVC empties outputs before it runs a stage."""
    return ROOT / "state" / "features" / task


def prompt_path(role: str, task: str, seed: int) -> Path:
    """A stored prompt of a winner."""
    return EVALUATION / "prompts" / f"{role}-{task}-{seed}.prompt"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o644)  # safetensors makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, value: Any) -> None:
    """Write JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text))


def load_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error}); `dvc repro` makes it anew") from None


def checkout_id() -> str:
    """Return what tells this copy of the project from others; made with the first sweep.

    Two copies that use one tracking server are two sweeps there.
    """
    path = STATE / "checkout.txt"
    if not path.exists():
        write_atomic(path, lambda temporary: temporary.write_text(secrets.token_hex(3)))
    return path.read_text()


def clear_folder(path: Path) -> Path:
    """Make an empty folder and return it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def save_features(path: Path, features: TaskFeatures) -> None:
    """Write the features of a task as safetensors with a JSON header."""
    names = [field.name for field in fields(features) if field.name != "pictures"]
    values = {name: getattr(features, name) for name in names}
    tensors = {k: v.contiguous() for k, v in values.items() if isinstance(v, torch.Tensor)}
    about = {k: v for k, v in values.items() if k not in tensors}
    metadata = {"loqua": json.dumps(about)}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_features(path: Path) -> TaskFeatures:
    """Read the features of a task.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["loqua"])
            # A safetensors file has keys() but is no mapping: it cannot be iterated itself.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (as above)
        about = {k: tuple(v) if isinstance(v, list) else v for k, v in about.items()}
        return TaskFeatures(**about, **tensors)
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable feature file ({error}); remove it and run `dvc repro features`"
        ) from None
