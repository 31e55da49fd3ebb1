"""Where runs are recorded: the setting, the address in force, and the file it may name."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from sqlalchemy import make_url

from pipeline.artifacts import write_atomic
from pipeline.checkout import in_checkout
from pipeline.config import Config
from pipeline.locks import exclusive

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


def make_database(uri: str) -> None:
    """Make sure that the file of a sqlite address is there, whole; do nothing for others.

    MLflow makes its database in some forty steps. A process that is killed between two of them
    leaves a file that MLflow can neither use nor mend, so it is made under another name.

    Raises:
        Exception: what MLflow, SQLAlchemy or the system raise.
    """
    name = make_url(uri).database if uri.startswith("sqlite:") else None
    path = Path(name or "")
    if name == ":memory:" or path.exists():
        return
    from mlflow.store import tracking as defaults  # takes seconds; once per project
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def create(new: Path) -> None:
        files = defaults.DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        SqlAlchemyStore(f"{SQLITE}{new}", files).engine.dispose()  # type: ignore[no-untyped-call]  # MLflow's

    with exclusive(path.with_name(f"{path.name}.lock"), "another first run", wait=True):
        if not path.exists():
            write_atomic(path, create)
