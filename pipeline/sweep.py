"""The sweep on Ray Tune.

Workers get the towers and all features once, through Ray's object store, and keep them between
trials.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the memory, not Tune
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import torch
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.checkpoint import load_trial, save_trial
from pipeline.features import TaskFeatures
from pipeline.prompts import PromptConfig
from pipeline.run import TextSide, usable_device
from pipeline.search import Search, SweepConfig
from pipeline.selection import TrialRecord
from pipeline.train import TrainConfig
from pipeline.trial import Trial

Settings = dict[str, Any]

ANSI_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class SweepJob:
    """What every trial of a sweep shares.

    Attributes:
        text: the text tower and tokenized names.
        tasks: their features.
        resolve: turns a trial's settings into its configuration.
        expand: adds what a method of the settings stands for.
        sweep: resources, shots and seeds.
    """

    text: TextSide
    tasks: list[TaskFeatures]
    resolve: Callable[[Settings], tuple[PromptConfig, TrainConfig]]
    expand: Callable[[Settings], Settings]
    sweep: SweepConfig


class TrialActor(tune.Trainable):  # type: ignore[misc]  # Ray is untyped
    """A Ray worker that runs one trial after the other; an iteration is a round.

    Every round leaves a checkpoint, from which another worker can go on.
    """

    def setup(self, config: dict[str, Any], job: SweepJob) -> None:
        """Keep the shared job and begin the first trial."""
        torch.set_num_threads(max(1, int(job.sweep.cpus_per_trial)))
        job.text.to(usable_device(job.sweep.gpus_per_trial))
        self.job = job
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process."""
        job = self.job
        self.number, self.settings = new_config["number"], new_config["settings"]
        self.watch = hang_file(Path(new_config["folder"]), self.number).open("w")
        prompt, train = job.resolve(self.settings)
        self.trial = Trial(job.text, job.tasks, prompt, train, job.sweep.shots, job.sweep.seeds)
        return True

    def step(self) -> dict[str, Any]:
        """Train one round; the result carries the trial's record as far as it is.

        A round that hangs ends the worker, and leaves where it hung.
        """
        timeout = self.job.sweep.round_timeout_s
        if timeout:
            self.watch.seek(0)
            faulthandler.dump_traceback_later(timeout, exit=True, file=self.watch)
        result: dict[str, Any] = {**self.trial.run_round(), "done": self.trial.done}
        faulthandler.cancel_dump_traceback_later()
        return {**result, "record": asdict(self.record())}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial between two rounds."""
        save_trial(Path(checkpoint_dir), self.trial)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there."""
        load_trial(Path(checkpoint), self.trial)

    def record(self) -> TrialRecord:
        """Return what is kept of the trial."""
        last = self.trial.history[-1]
        return TrialRecord(
            number=self.number,
            settings=self.job.expand(self.settings),
            score=last["score"],
            base=last["base"],
            new=last["new"],
            size_bytes=self.trial.size_bytes,
            tasks=self.trial.tasks,
            history=self.trial.history,
            seconds=self.trial.seconds,
        )


def hang_file(folder: Path, number: int) -> Path:
    """The file that tells where a trial's round hung; empty if none did."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"hang-{number}.txt"


class Unpickled:
    """Leaves its attributes behind when Ray Tune pickles it for a restore that is never used."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: the study is the state."""
        return {}


class StudySearcher(Unpickled, Searcher):  # type: ignore[misc]  # Ray is untyped
    """Lets Ray Tune ask a study for configurations; results are told by `StudyCallback`."""

    def __init__(
        self, search: Search, infeasible: Callable[[Settings], str | None], folder: Path
    ) -> None:
        """Keep the study."""
        super().__init__(metric="score", mode="max")
        self.search, self.infeasible, self.folder = search, infeasible, folder

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 (Ray's)
        """Return the next trial's number and settings."""
        asked = self.search.ask(self.infeasible)
        if asked is None:
            return str(Searcher.FINISHED)
        return {"number": asked[0], "settings": asked[1], "folder": str(self.folder)}

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

    def __init__(self, search: Search, listener: Listener, rounds_of: Callable[[Settings], int]):
        """Keep the study and the listener; `rounds_of` settings tells when a trial is finished."""
        self.search, self.listener, self.rounds_of = search, listener, rounds_of

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Keep the record, then tell the listener; a trial with rounds left was stopped early."""
        record = TrialRecord(**trial.last_result["record"])
        if len(record.history) < self.rounds_of(trial.config["settings"]):
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
        """Keep the error's text."""
        file = trial.error_file  # the text of every failure of the trial
        text = Path(file).read_text() if file else "Ray Tune kept no error"
        text = ANSI_COLOURS.sub("", text).strip()
        number = trial.config["number"]
        hang = hang_file(Path(trial.config["folder"]), number)
        where = hang.read_text().strip() if hang.exists() else ""
        reason = text.splitlines()[-1]
        if where:
            reason = "a round took longer than sweep.round_timeout_s; the study has where it hung"
            text = f"{text}\n\n{where}\n\n{reason}"
        self.search.tell_failed(number, text)
        self.listener.on_failed(number, reason)


def run_sweep(search: Search, job: SweepJob, folder: Path, listener: Listener) -> None:
    """Run the trials that the study still lacks, as many at once as the cluster holds.

    Args:
        search: the study.
        job: what all trials share.
        folder: where Ray Tune keeps its own files of this sweep; all nodes must see it.
        listener: is told of every trial that ended, after the study.
    """
    folder, config = folder.resolve(), job.sweep
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}

    def infeasible(settings: Settings) -> str | None:
        return job.resolve(settings)[0].infeasible()

    def rounds_of(settings: Settings) -> int:
        return job.resolve(settings)[1].rounds

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialActor, job=job), resources),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(search, infeasible, folder / "hangs"),
            scheduler=scheduler(config),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(folder),
            callbacks=[StudyCallback(search, listener, rounds_of)],
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=1, num_to_keep=1, checkpoint_at_end=False
            ),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the callback tells of failures
    tuner.fit()


def scheduler(config: SweepConfig) -> TrialScheduler:
    """Return what decides whether a trial goes on: ASHA, or that all do."""
    if config.objective == "pareto":
        return FIFOScheduler()
    return ASHAScheduler(
        metric="score",
        mode="max",
        max_t=10**6,  # a trial knows its own end
        grace_period=config.asha.grace_rounds,
        reduction_factor=config.asha.reduction_factor,
    )
