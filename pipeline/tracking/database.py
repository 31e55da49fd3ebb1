"""The sqlite file of runs, made whole."""

from __future__ import annotations

from pathlib import Path

from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH as FILES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import make_url

from pipeline.core.files import write_atomic
from pipeline.core.locks import exclusive
from pipeline.tracking.config import SQLITE


def make_database(uri: str) -> None:
    """Make sure that the file of a sqlite address exists and is whole; do nothing for others.

    MLflow 3.17 creates its schema in some forty steps, and a process that is killed between two
    of them leaves a file that MLflow can neither use nor repair ("table secrets already exists").
    So the file is made under another name and renamed. This can go once MLflow creates its schema
    in one transaction.
    """
    name = make_url(uri).database if uri.startswith("sqlite:") else None
    if name in (None, "", ":memory:") or Path(str(name)).exists():
        return
    path = Path(str(name))

    def create(new: Path) -> None:
        store = SqlAlchemyStore(f"{SQLITE}{new}", FILES)  # type: ignore[no-untyped-call]  # MLflow's
        store.engine.dispose()

    with exclusive(path.with_name(f"{path.name}.lock"), "another first run", wait=True):
        if not path.exists():
            write_atomic(path, create)
