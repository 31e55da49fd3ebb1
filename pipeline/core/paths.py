"""The only place that names the pipeline's files, and how they are written and read.

Every stage owns the folder `artifacts/<stage>/`. Files appear complete or not at all.
"""

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
"""What must survive between runs and belongs to no stage: the studies, the tracking database, and
features of a task that is not encoded to its end. Experiments that DVC runs in a copy of the
project use that of the checkout."""
PRETRAIN_CHECKPOINT = STATE / "pretrain.pt"
"""From which an interrupted pretraining resumes."""
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
