"""The sweep on Ray Tune: the driver's side. The worker's side is trainable.py."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the stopper has its own
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the record has the score
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the memory, not Tune
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from pipeline.sweep.checkpoint_store import open_store
from pipeline.sweep.job import SweepJob
from pipeline.sweep.ray_cluster import waiting_trials
from pipeline.sweep.stopper import SweepStopper, Unpickled
from pipeline.sweep.study import Search
from pipeline.sweep.trainable import TrialActor
from pipeline.training.records import TrialRecord

ANSI_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HUNG = "a round took longer than sweep.round_timeout_s; the study has the place"


class Listener(Protocol):
    """Is called for every trial, after the study has it."""

    def on_round(self, record: TrialRecord) -> None:
        """Take the record so far of a trial that runs."""

    def on_finished(self, record: TrialRecord) -> None:
        """Take a trial that ran to its end."""

    def on_pruned(self, record: TrialRecord) -> None:
        """Take a trial that was stopped early, as far as it is trained."""

    def on_failed(self, number: int, error: str) -> None:
        """Take the last line of an error."""


class StudySearcher(Unpickled, Searcher):  # type: ignore[misc]  # Ray is untyped
    """Lets Ray Tune ask the study for trials; `StudyCallback` reports their results."""

    def __init__(self, search: Search, stopper: SweepStopper) -> None:
        """Keep the study."""
        super().__init__(metric="score", mode="max")
        self.search, self.stopper = search, stopper
        self.again: list[dict[str, Any]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 (Ray's)
        """Return the next trial, or None while there may be another one later."""
        if self.again:
            return self.again.pop()
        spec = None
        with self.stopper.guards():
            spec = self.search.ask()
        if spec is not None:
            return {"spec": spec}
        return None if self.search.running and not self.stopper.error else str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the callback reports results."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    restore = save


class StudyCallback(Unpickled, tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Reports every round and every trial that ended to the study and the listeners."""

    def __init__(
        self, searcher: StudySearcher, job: SweepJob, store: Any, listeners: tuple[Listener, ...]
    ) -> None:
        """Keep whom to call."""
        self.searcher, self.job, self.store, self.listeners = searcher, job, store, listeners
        self.search, self.stopper = searcher.search, searcher.stopper
        self.began: set[int] = set()
        self.given_again: set[int] = set()

    def on_trial_start(self, trial: RayTrial, **_: Any) -> None:
        """Note that a worker has the trial."""
        self.began.add(number_of(trial))

    def on_trial_recover(self, trial: RayTrial, **_: Any) -> None:
        """Note that the trial waits for another worker."""
        self.began.discard(number_of(trial))

    def on_trial_result(self, trial: RayTrial, result: dict[str, Any], **_: Any) -> None:
        """Report a round, and forget failures before it: only those in a row count."""
        trial.run_metadata.num_failures = 0
        with self.stopper.guards():
            self.search.note(result["record"])
            for listener in self.listeners:
                listener.on_round(result["record"])

    def on_trial_complete(self, trial: RayTrial, **_: Any) -> None:
        """Report a trial that ended."""
        with self.stopper.guards():
            record = trial.last_result["record"]
            self.store.drop.remote(record.number)
            state = self.search.tell(record)
            for listener in self.listeners:
                if state == TrialState.FAIL:
                    listener.on_failed(record.number, f"the score is {record.score}")
                elif state == TrialState.PRUNED:
                    listener.on_pruned(record)
                else:
                    listener.on_finished(record)

    def on_trial_error(self, trial: RayTrial, **_: Any) -> None:
        """Report a trial that failed.

        Ray Tune 2.60 does not retry a trial that it gave to a worker that was dead without its
        knowledge; such a trial is given out again, once. This can go when Tune retries it itself:
        tests/sweep/test_driver_faults.py has the case.
        """
        number = number_of(trial)
        if number not in self.began | self.given_again:
            self.given_again.add(number)
            self.searcher.again.append(dict(trial.config))
            return
        with self.stopper.guards():
            reason, text = self.failure(trial)
            self.store.drop.remote(number)
            self.search.tell_failed(number, text)
            for listener in self.listeners:
                listener.on_failed(number, reason)

    def failure(self, trial: RayTrial) -> tuple[str, str]:
        """Return why a trial failed, in a line and in full."""
        file = trial.error_file  # the text of every failure of the trial
        text = Path(file).read_text() if file else "Ray Tune kept no error"
        text = ANSI_COLOURS.sub("", text).strip()
        timeout_s = self.job.sweep.round_timeout_s
        hung = self.store.hung.remote(number_of(trial), timeout_s) if timeout_s else None
        place = ray.get(hung) if hung else None
        if place is None:
            return text.splitlines()[-1], text
        place = place or "the worker could not report the place; its log in Ray's folder has it"
        return HUNG, f"{text}\n\n{place.strip()}\n\n{HUNG}"


class InOrder(FIFOScheduler):  # type: ignore[misc]  # Ray is untyped
    """Chooses the trial with the lowest number.

    Ray 2.60's own way looks at all trials at every event, also at those that ended. This can go
    when `FIFOScheduler.choose_trial_to_run` looks at live trials alone.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        """Return the first trial that waits, or that was paused."""
        live = sorted(tune_controller.get_live_trials(), key=number_of)
        for status in (RayTrial.PENDING, RayTrial.PAUSED):
            for trial in live:
                if trial.status == status:
                    return trial
        return None


def number_of(trial: RayTrial) -> int:
    """Return a trial's number in the study."""
    return int(trial.config["spec"].number)


def run_sweep(search: Search, job: SweepJob, folder: Path, *listeners: Listener) -> None:
    """Run the trials that the study lacks, as many at once as the cluster holds.

    Args:
        search: the study.
        job: what all trials share.
        folder: where Ray Tune keeps its own files of this sweep. Only the driver's node uses it,
            and nothing is read from it later.
        listeners: are called for every trial, after the study has it.

    Raises:
        KeyboardInterrupt: with the signal's number, if SIGINT or SIGTERM ended the sweep.
        Exception: what the study or a listener raised; the sweep ends with the first.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(waiting_trials(search.n_trials))
    store, stopper = open_store(), SweepStopper(search)
    searcher = StudySearcher(search, stopper)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(TrialActor, job=job, store=store),
            {"cpu": job.sweep.cpus_per_trial, "gpu": job.sweep.gpus_per_trial},
        ),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=InOrder(), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(folder.resolve()),
            callbacks=[StudyCallback(searcher, job, store, listeners)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=job.sweep.max_failures),
            stop=stopper,
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the callback reports failures
    try:
        with stopper.on_signals():
            tuner.fit()
    finally:
        ray.kill(store)
    if stopper.error:
        raise stopper.error
