"""The only place that names the pipeline's files. A stage owns the folder `artifacts/<stage>/`."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.workspace import checkout

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
"""What must survive between runs and belongs to no stage: the studies and the tracking database.
Experiments that DVC runs in a copy of the project use that of the checkout."""
PRETRAIN_CHECKPOINT = STATE / "pretrain.pt"
"""From which an interrupted pretraining resumes."""
CLUSTER = ROOT / "cluster"
"""The last known state of a cluster's head."""
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
    """What identifies the data of a task."""
    return SOURCES / f"{task}.json"


def manifest_path(task: str) -> Path:
    """The manifest of a task."""
    return MANIFESTS / f"{task}.parquet"


def summary_path(task: str) -> Path:
    """The summary of a task's manifest."""
    return MANIFESTS / f"{task}.json"


def features_path(task: str) -> Path:
    """The cached features of a task."""
    return FEATURES / f"{task}.safetensors"


def shards_path(task: str) -> Path:
    """The features of a task so far; no output: DVC empties outputs before it runs a stage."""
    return ROOT / "state" / "features" / task


def prompt_path(role: str, task: str, seed: int) -> Path:
    """The stored prompt of a refit."""
    return EVALUATION / "prompts" / f"{role}-{task}-{seed}.prompt"
