"""The sweep on Ray: the only module that imports ray.

The driver joins the cluster that it stands on, or starts one on this machine. Workers get the
text tower and all features once, through Ray's object store, and keep them between trials.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the memory, not Tune
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import Searcher

from pipeline.features import TaskFeatures
from pipeline.prompts import PromptConfig
from pipeline.run import TextSide
from pipeline.search import Search, SweepConfig
from pipeline.selection import TrialRecord
from pipeline.train import TrainConfig
from pipeline.trial import Trial

Settings = dict[str, Any]

ANSI_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Keeps glibc from returning buffers that the next step asks for again."""


@contextmanager
def cluster() -> Iterator[None]:
    """Join the Ray cluster of this machine or of RAY_ADDRESS; start a local one if none is there.

    Ray writes its logs to its own folder; workers inherit the allocator's settings.
    """
    runtime_env = {"env_vars": ALLOCATOR}
    options: dict[str, Any] = {
        "runtime_env": runtime_env,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
    }
    try:
        ray.init(address="auto", **options)
    except ConnectionError:
        ray.init(address="local", include_dashboard=False, **options)
    try:
        yield
    finally:
        ray.shutdown()


def cluster_resources() -> str:
    """Return what the cluster offers, for people: nodes, CPUs and GPUs."""
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{nodes} node(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"


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
    """A Ray worker that runs one trial after the other; an iteration is a round."""

    def setup(self, config: dict[str, Any], job: SweepJob) -> None:
        """Keep the shared job and begin the first trial."""
        torch.set_num_threads(max(1, int(job.sweep.cpus_per_trial)))
        device = torch.device("cuda" if job.sweep.gpus_per_trial else "cpu")
        job.text.to(device)
        self.job = job
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process."""
        job = self.job
        self.number, self.settings = new_config["number"], new_config["settings"]
        prompt, train = job.resolve(self.settings)
        self.trial = Trial(job.text, job.tasks, prompt, train, job.sweep.shots, job.sweep.seeds)
        return True

    def step(self) -> dict[str, Any]:
        """Train one round; the last result carries the trial's record."""
        result: dict[str, Any] = {**self.trial.run_round(), "done": self.trial.done}
        if self.trial.done:
            result["record"] = asdict(self.record())
        return result

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


class Unpickled:
    """Leaves its attributes behind when Ray Tune pickles it for a restore that is never used."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: the study is the state."""
        return {}


class StudySearcher(Unpickled, Searcher):  # type: ignore[misc]  # Ray is untyped
    """Lets Ray Tune ask a study for configurations; results are told by `StudyCallback`."""

    def __init__(self, search: Search, infeasible: Callable[[Settings], str | None]) -> None:
        """Keep the study."""
        super().__init__(metric="score", mode="max")
        self.search, self.infeasible = search, infeasible

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002 (Ray's)
        """Return the next trial's number and settings."""
        asked = self.search.ask(self.infeasible)
        if asked is None:
            return str(Searcher.FINISHED)
        return {"number": asked[0], "settings": asked[1]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the callback has told the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""


class StudyCallback(Unpickled, tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tells the study and the listener of every trial that ended."""

    def __init__(
        self,
        search: Search,
        on_finished: Callable[[TrialRecord], None],
        on_failed: Callable[[int, str], None],
    ) -> None:
        """Keep the study and the listener."""
        self.search, self.on_finished, self.on_failed = search, on_finished, on_failed

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002 (Ray's interface)
        trials: list[RayTrial],  # noqa: ARG002 (as above)
        trial: RayTrial,
        **info: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Keep the record, then tell the listener."""
        record = TrialRecord(**trial.last_result["record"])
        self.search.tell(record.number, record)
        self.on_finished(record)

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
        self.search.tell_failed(trial.config["number"], text)
        self.on_failed(trial.config["number"], text.splitlines()[-1])


def run_sweep(
    search: Search,
    job: SweepJob,
    folder: Path,
    on_finished: Callable[[TrialRecord], None],
    on_failed: Callable[[int, str], None],
) -> None:
    """Run the trials that the study still lacks, as many at once as the cluster holds.

    Args:
        search: the study.
        job: what all trials share.
        folder: where Ray Tune keeps its own files of this sweep.
        on_finished: called with every finished trial, after the study has it.
        on_failed: called with the number and the error of every failed trial.
    """
    resources = {"cpu": job.sweep.cpus_per_trial, "gpu": job.sweep.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialActor, job=job), resources),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(search, lambda s: job.resolve(s)[0].infeasible()),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(folder.resolve()),
            callbacks=[StudyCallback(search, on_finished, on_failed)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=job.sweep.max_failures),
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the callback tells of failures
    tuner.fit()


def map_parallel(
    function: Callable[..., Any], items: Sequence[Any], shared: Any, cpus: float, gpus: float
) -> Iterator[tuple[int, Any]]:
    """Compute `function(shared, item)` on the cluster; yield (index, result) as they arrive."""
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    reference = ray.put(shared)
    index_of = {remote.remote(reference, item): index for index, item in enumerate(items)}
    waiting = list(index_of)
    while waiting:
        ready, waiting = ray.wait(waiting)
        yield index_of[ready[0]], ray.get(ready[0])
