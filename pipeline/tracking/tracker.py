"""MLflow runs: one per sweep, one nested run per trial, one per later stage.

Runs are keyed by a tag, so that repeating a stage or resuming a sweep finds its runs again and
never makes a second one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two requests per run

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.causes import root_of
from pipeline.core.urls import without_credentials
from pipeline.tracking.config import TrackingConfig, tracking_uri
from pipeline.tracking.database import make_database
from pipeline.tracking.server import check_server
from pipeline.tracking.trial_run import rank_word, trial_key, trial_metrics, trial_name
from pipeline.training.records import TrialRecord

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints what it raises

KEY = "loqua.key"
ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's own retries would make a second run where only the answer to the first was lost."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Lets the UI open on training runs."""


class Away(Exception):
    """The server does not answer; the same request may work later."""


class Refused(Exception):
    """The server answered, and does not accept this."""


class Tracker:
    """The runs of one experiment."""

    def __init__(self, config: TrackingConfig, state: Path) -> None:
        """Open the experiment, or create it.

        Raises:
            ValueError: if the server does not answer or the address is no tracking store.
        """
        self.uri = tracking_uri(config, state)
        self.place = without_credentials(self.uri)
        check_server(self.uri)
        try:
            state.mkdir(parents=True, exist_ok=True)
            make_database(self.uri)
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
            raise ValueError(f"tracking.uri: {self.place}: {self._words(error)}") from None

    @contextmanager
    def one_try(self) -> Iterator[None]:
        """Within the block, requests are tried once; whoever sends decides what then."""
        before = {name: os.environ.get(name) for name in ONE_TRY}
        os.environ.update(ONE_TRY)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Turn MLflow's errors into two.

        Raises:
            Away: if the store does not answer, or is in trouble of its own.
            Refused: if it does not take what was sent.
        """
        try:
            yield
        except MlflowException as error:
            status = error.get_http_status_code()  # type: ignore[no-untyped-call]  # MLflow's
            refused = 400 <= status < 500 and status not in (408, 429)
            raise (Refused if refused else Away)(self._words(error)) from error
        except (SQLAlchemyError, OSError) as error:
            raise Away(self._words(error)) from error

    def _words(self, error: BaseException) -> str:
        return root_of(error).replace(self.uri, self.place)

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
        return self._create(key, name, tags, parent, int((time.time() - seconds_ago) * 1000))

    def find_run(self, key: str) -> str | None:
        """Return the id of the run with this key, untouched, or None."""
        run = self._find(key)
        return str(run.info.run_id) if run else None

    def _find(self, key: str) -> Run | None:
        """Return the run with this key; of several, the best, and delete the others."""
        return self._keep_best(
            self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=10)
        )

    def _keep_best(self, runs: Sequence[Run]) -> Run | None:
        """Delete all but one of a key's runs; one that ended stays, else the earliest.

        More than one comes of a request that got through although its answer did not.
        """
        in_order = sorted(
            runs, key=lambda r: (r.info.status == "RUNNING", r.info.start_time, r.info.run_id)
        )
        for run in in_order[1:]:
            self.client.delete_run(run.info.run_id)
        return in_order[0] if in_order else None

    def _create(
        self, key: str, name: str, tags: Mapping[str, str], parent: str, started_ms: int
    ) -> str:
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run = self.client.create_run(
            self.experiment_id,
            start_time=started_ms,
            run_name=name,
            tags={KEY: key, "mlflow.source.name": "loqua", **tags, **nested},
        )
        return str(run.info.run_id)

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
        time_ms: Callable[[int], int] | None = None,
    ) -> None:
        """Add parameters, metrics (name, value, step) and tags to a run.

        All go in one request, or in as few as MLflow's limits allow. A metric that is logged
        again at the same time, which `time_ms` tells of a step, is kept once.
        """
        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[
                Metric(key, value, time_ms(step) if time_ms else now, step)
                for key, value, step in metrics
                if math.isfinite(value)
            ],
            params=[Param(key, str(value)) for key, value in (params or {}).items()],
            tags=[RunTag(key, str(value)) for key, value in (tags or {}).items()],
        )

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the newest value of every metric of a run."""
        return dict(self.client.get_run(run_id).data.metrics)

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
        ended: float | None = None,
        search: bool = True,
    ) -> None:
        """Record a trial as a nested run; KILLED is one that was stopped early.

        Repeating it changes nothing, and completes a run that was recorded in part: the times of
        metrics are counted from the run's start.

        Args:
            parent: id of the sweep's run.
            study: the sweep's name.
            record: the trial.
            tags: of the run.
            status: how the trial ended.
            ended: when, in seconds; now if None.
            search: False spares a request if the trial was surely never told before.
        """
        key = trial_key(study, record)
        found = self._find(key) if search else None
        if found and found.info.status != "RUNNING":
            return
        started_ms = int(((ended or time.time()) - record.seconds) * 1000)
        if found:
            run_id, started_ms = str(found.info.run_id), found.info.start_time
        else:
            name = trial_name(record.settings, record.number)
            run_id = self._create(key, name, tags, parent, started_ms)
        lasted_ms, last = int(record.seconds * 1000), len(record.history)

        def time_ms(step: int) -> int:
            return started_ms + lasted_ms * step // max(last, 1)

        params = record.settings | rank_word(record.settings)
        self.log(run_id, params, trial_metrics(record), time_ms=time_ms)
        self.client.set_terminated(run_id, status, started_ms + lasted_ms)

    def logged_trials(self, parent: str) -> set[str]:
        """Return the keys of the trial runs of a sweep that ended; of each, one run stays."""
        by_key: dict[str, list[Run]] = {}
        below, token = f"tags.`mlflow.parentRunId` = '{parent}'", None
        while token != "":
            page = self.client.search_runs(
                [self.experiment_id], below, max_results=1_000, page_token=token
            )
            token = page.token or ""
            for run in page:
                by_key.setdefault(run.data.tags.get(KEY, ""), []).append(run)
        kept = {key: self._keep_best(runs) for key, runs in by_key.items() if key}
        return {key for key, run in kept.items() if run and run.info.status != "RUNNING"}
