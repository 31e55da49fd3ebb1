"""What MLflow is told: one run per sweep, one nested run per trial, one per later stage.

Runs are keyed by a tag, so that repeating a stage, or resuming a sweep, finds its runs again
and never makes a second one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import requests
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import Config
from pipeline.selection import TrialRecord

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints what it raises

KEY = "loqua.key"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Lets the UI open on training runs."""


class TrackingConfig(Config):
    """Where runs are recorded. The environment variable MLFLOW_TRACKING_URI comes first."""

    uri: str | None
    """null: a sqlite file among the artefacts; or the address of a server."""
    experiment: str = Field(min_length=1)


def tracking_uri(config: TrackingConfig, state: Path) -> str:
    """Return the address in force."""
    local = f"sqlite:///{(state / 'mlflow.db').resolve()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or config.uri or local


def check_server(uri: str) -> None:
    """Refuse a tracking server that does not answer, before anything is computed.

    Raises:
        ValueError: naming the address.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()
    except requests.RequestException as error:
        raise ValueError(
            f"tracking.uri: the MLflow server {uri} does not answer ({type(error).__name__}); "
            "start it, or set tracking.uri to null for a local file"
        ) from None


class Tracker:
    """The runs of one experiment."""

    def __init__(self, config: TrackingConfig, state: Path) -> None:
        """Open the experiment, or create it.

        Raises:
            ValueError: if the server does not answer or the address is no tracking store.
        """
        self.uri = tracking_uri(config, state)
        check_server(self.uri)
        try:
            state.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            self.client = MlflowClient(self.uri, self.uri)
            found = self.client.get_experiment_by_name(config.experiment)
            local = (
                None if self.uri.startswith("http") else (state / "mlartifacts").resolve().as_uri()
            )
            self.experiment_id = (
                str(found.experiment_id)
                if found
                else str(
                    self.client.create_experiment(
                        config.experiment, artifact_location=local, tags=EXPERIMENT_TAGS
                    )
                )
            )
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise ValueError(f"tracking.uri: {self.uri}: {error}") from None

    def open_run(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        parent: str = "",
        seconds_ago: float = 0.0,
    ) -> str:
        """Return the id of the run with this key; create it, RUNNING, if there is none.

        Args:
            key: what tells this run from all others of the experiment.
            name: for people.
            tags: of a new run.
            parent: id of the run that a new one is nested in.
            seconds_ago: when a new run's work began.
        """
        run_id = self.find_run(key)
        if run_id:
            self.client.set_terminated(run_id, "RUNNING")
            return run_id
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run = self.client.create_run(
            self.experiment_id,
            start_time=int((time.time() - seconds_ago) * 1000),
            run_name=name,
            tags={KEY: key, "mlflow.source.name": "loqua", **tags, **nested},
        )
        return str(run.info.run_id)

    def find_run(self, key: str) -> str | None:
        """Return the id of the run with this key, untouched, or None."""
        found = self.client.search_runs(
            [self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    @contextmanager
    def run(self, key: str, name: str, tags: Mapping[str, str], parent: str = "") -> Iterator[str]:
        """Open a run and end it with the block: FINISHED, KILLED when interrupted, or FAILED."""
        run_id, status = self.open_run(key, name, tags, parent), "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.close_run(run_id, status)

    def log(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        metrics: Iterable[tuple[str, float, int]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add parameters, metrics (name, value, step) and tags to a run, in one request."""
        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, now, step) for k, v, step in metrics if math.isfinite(v)],
            params=[Param(key, str(value)) for key, value in (params or {}).items()],
            tags=[RunTag(key, str(value)) for key, value in (tags or {}).items()],
        )

    def close_run(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def log_artifacts(self, run_id: str, paths: Sequence[Path]) -> None:
        """Attach files or folders to a run."""
        for path in paths:
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(run_id, str(path))

    def log_trial(
        self,
        parent: str,
        study: str,
        record: TrialRecord,
        tags: Mapping[str, str],
        status: str = "FINISHED",
    ) -> None:
        """Record a trial as a nested run; KILLED is one that was stopped early."""
        key = f"{study}/{record.number}"
        name = trial_name(record.settings, record.number)
        run_id = self.open_run(key, name, tags, parent, record.seconds)
        last = len(record.history)
        metrics = [
            (name, value, step)
            for step, epoch in enumerate(record.history, start=1)
            for name, value in epoch.items()
        ]
        metrics += [("size_bytes", record.size_bytes, last), ("seconds", record.seconds, last)]
        metrics += [
            (f"{task}/{name}", value, last)
            for task, values in record.tasks.items()
            for name, value in values.items()
        ]
        self.log(run_id, record.settings, metrics)
        self.close_run(run_id, status)

    def logged_trials(self, parent: str) -> set[str]:
        """Return the keys of the trial runs of a sweep that ended."""
        runs = mlflow.search_runs(
            [self.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status != 'RUNNING'",
            max_results=50_000,
            output_format="list",
        )
        return {run.data.tags.get(KEY, "") for run in runs}


def trial_name(settings: Mapping[str, Any], number: int) -> str:
    """Return a run name that tells the settings, for instance `7: rank 1, bits 2`."""
    parts = [
        f"{key.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]} {value}"
        for key, value in settings.items()
    ]
    return f"{number}: {', '.join(parts)}"
