"""The sweep on Ray Tune: the driver's side. What a worker does stands in worker.py."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the brake has its own
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the memory, not Tune
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.sweep.checkpoint_store import Vault
from pipeline.sweep.ray_cluster import waiting_trials
from pipeline.sweep.stopper import Brake, Unpickled
from pipeline.sweep.study import Search, SweepConfig
from pipeline.sweep.trainable import Settings, SweepJob, TrialActor
from pipeline.training.records import TrialRecord

ANSI_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HUNG = "a round took longer than sweep.round_timeout_s; the study has where it hung"


class StudySearcher(Unpickled, Searcher):  # type: ignore[misc]  # Ray is untyped
    """Lets Ray Tune ask a study for configurations; results are told by `StudyCallback`."""

    def __init__(
        self, search: Search, infeasible: Callable[[Settings], str | None], brake: Brake
    ) -> None:
        """Keep the study."""
        super().__init__(metric="score", mode="max")
        self.search, self.infeasible, self.brake = search, infeasible, brake
        self.again: list[dict[str, Any]] = []
        self.all_asked = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 (Ray's)
        """Return the next trial's number and settings, or None while trials may come back."""
        if self.again:
            return self.again.pop()
        if not self.all_asked:
            asked = None
            with self.brake.guards():
                asked = self.search.ask(self.infeasible)
            if asked is not None:
                return {"number": asked[0], "settings": asked[1]}
            self.all_asked = True
        if self.search.running and not self.brake.error:
            return None
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the callback has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""


class Listener(Protocol):
    """Is told of every trial that ended."""

    def on_finished(self, record: TrialRecord) -> None:
        """Take a trial that ran to its end."""

    def on_pruned(self, record: TrialRecord) -> None:
        """Take a trial that was stopped early, as far as it got."""

    def on_failed(self, number: int, error: str) -> None:
        """Take the last line of what went wrong."""


class StudyCallback(Unpickled, tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tells the study and the listener of every trial that ended."""

    def __init__(
        self, searcher: StudySearcher, job: SweepJob, vault: Vault, listener: Listener
    ) -> None:
        """Keep those who are told, and the vault."""
        self.searcher, self.job, self.vault, self.listener = searcher, job, vault, listener
        self.search, self.brake = searcher.search, searcher.brake
        self.began: set[int] = set()
        self.given_again: set[int] = set()

    def on_trial_start(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Note that a worker has the trial."""
        self.began.add(trial.config["number"])

    def on_trial_recover(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Note that the trial waits for another worker."""
        self.began.discard(trial.config["number"])

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        result: dict[str, Any],  # noqa: ARG002 (as above)
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Forget failures before this round: only those in a row count."""
        trial.run_metadata.num_failures = 0

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Keep the record, then tell the listener; a trial with rounds left was stopped early."""
        with self.brake.guards():
            record = TrialRecord(**trial.last_result["record"])
            _, train = self.job.resolve(trial.config["settings"])
            self.vault.drop(record.number)
            if len(record.history) < train.rounds:
                self.search.tell_pruned(record.number, record)
                self.listener.on_pruned(record)
            else:
                self.search.tell(record.number, record)
                self.listener.on_finished(record)

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Keep the error's text.

        Ray Tune does not retry a trial that was given to a worker of which it did not know that it
        is dead; such a trial is given out again, once.
        """
        number = trial.config["number"]
        if number not in self.began | self.given_again:
            self.given_again.add(number)
            self.searcher.again.append(dict(trial.config))
            return
        with self.brake.guards():
            reason, text = self.failure(trial)
            self.vault.drop(number)
            self.search.tell_failed(number, text)
            self.listener.on_failed(number, reason)

    def failure(self, trial: RayTrial) -> tuple[str, str]:
        """Return why a trial failed, in a line and in full."""
        file = trial.error_file  # the text of every failure of the trial
        text = Path(file).read_text() if file else "Ray Tune kept no error"
        text = ANSI_COLOURS.sub("", text).strip()
        timeout_s = self.job.sweep.round_timeout_s
        place = self.vault.hung(trial.config["number"], timeout_s) if timeout_s else None
        if place is None:
            return text.splitlines()[-1], text
        place = place or "the worker could not say where; its log in Ray's folder does"
        return HUNG, f"{text}\n\n{place.strip()}\n\n{HUNG}"


def run_sweep(search: Search, job: SweepJob, folder: Path, listener: Listener) -> None:
    """Run the trials that the study still lacks, as many at once as the cluster holds.

    Args:
        search: the study.
        job: what all trials share.
        folder: where Ray Tune keeps its own files of this sweep. Only the driver's node uses it,
            and nothing is read from it later.
        listener: is told of every trial that ended, after the study.

    Raises:
        KeyboardInterrupt: with the signal's number, if SIGINT or SIGTERM ended the sweep.
        Exception: what the study or the listener raised; the sweep ends with the first.
    """
    config, brake = job.sweep, Brake()

    def infeasible(settings: Settings) -> str | None:
        return job.resolve(settings)[0].infeasible()

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(waiting_trials(config.limit))
    vault, searcher = Vault(), StudySearcher(search, infeasible, brake)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(TrialActor, job=job, vault=vault),
            {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial},
        ),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler(config), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(folder.resolve()),
            callbacks=[StudyCallback(searcher, job, vault, listener)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            stop=brake,
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the callback tells of failures
    try:
        with brake.on_signals():
            tuner.fit()
    finally:
        vault.close()
    if brake.error:
        raise brake.error


class InOrder:
    """Chooses among the trials that have not ended; Ray's own way looks at all, at every event."""

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        """Return the first trial that waits, or that was paused."""
        live = sorted(tune_controller.get_live_trials(), key=lambda one: one.config["number"])
        for status in (RayTrial.PENDING, RayTrial.PAUSED):
            for trial in live:
                if trial.status == status:
                    return trial
        return None


class PlainScheduler(InOrder, FIFOScheduler):  # type: ignore[misc]  # Ray is untyped
    """Every trial runs to its end."""


class StoppingScheduler(InOrder, ASHAScheduler):  # type: ignore[misc]  # Ray is untyped
    """Trials that fall behind are stopped."""


def scheduler(config: SweepConfig) -> TrialScheduler:
    """Return what decides whether a trial goes on: ASHA, or that all do."""
    if config.objective == "pareto":
        return PlainScheduler()
    return StoppingScheduler(
        metric="score",
        mode="max",
        max_t=10**6,  # a trial knows its own end
        grace_period=config.asha.grace_rounds,
        reduction_factor=config.asha.reduction_factor,
    )
