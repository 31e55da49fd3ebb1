"""Where runs are recorded: the setting, and the address in force. Read without MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from pipeline.core.config import Config
from pipeline.core.workspace import in_checkout

SQLITE = "sqlite:///"


class TrackingConfig(Config):
    """Where runs are recorded. The environment variable MLFLOW_TRACKING_URI comes first."""

    uri: str | None
    """null: a sqlite file among the artefacts; or the address of a server."""
    experiment: str = Field(min_length=1)
    patience_s: float = Field(default=120, ge=0)
    """How long the end of a sweep waits for a server that is away."""


def tracking_uri(config: TrackingConfig, state: Path) -> str:
    """Return the address in force."""
    local = f"{SQLITE}{(state / 'mlflow.db').resolve()}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or config.uri or local
    path = uri.removeprefix(SQLITE)
    return uri if path in ("", uri) else f"{SQLITE}{in_checkout(path)}"
