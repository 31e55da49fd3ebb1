"""Small sweeps for tests, and how something is made to go wrong in their workers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from pipeline.prompts.config import PromptConfig
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.study import Choice, Range, Search, SweepConfig
from pipeline.sweep.trainable import SweepJob
from pipeline.training.config import TrainConfig
from pipeline.training.records import TrialRecord
from pipeline.training.trial import Trial
from tests.helpers.toy import train_config

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
TRAIN = train_config(4, rounds=2)
LONG = train_config(12, rounds=6)


def resolve(settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Turn settings into configs of two rounds."""
    prompt = PromptConfig(
        init="a photo of a", rank=settings["prompt.rank"], bits=settings["prompt.bits"], n_ctx=2
    )
    return prompt, TRAIN.model_copy(update={"lr": settings["train.lr"]})


def long_resolve(settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Turn settings into configs of six rounds."""
    prompt, _ = resolve(settings)
    return prompt, LONG.model_copy(update={"lr": settings["train.lr"]})


def in_worker() -> bool:
    """Tell whether this process is an actor's."""
    return ray.get_runtime_context().get_actor_id() is not None


def faulty_resolve(
    settings: dict[str, Any], fault: Callable[[Trial], None]
) -> tuple[PromptConfig, TrainConfig]:
    """Let `fault` see every trial of a worker before each of its six rounds."""
    if in_worker() and not hasattr(Trial, "plain_round"):
        plain = Trial.run_round

        def run_round(self: Trial) -> dict[str, float]:
            fault(self)
            return plain(self)

        Trial.plain_round = plain  # type: ignore[attr-defined]  # marks the patch
        Trial.run_round = run_round  # type: ignore[method-assign]  # this worker's own
    return long_resolve(settings)


def rank_of(trial: Trial) -> int | str:
    """Return the rank of a trial's prompts."""
    return trial.runs[0].replicas[0].prompt.config.rank


def sweep_config(**changes: Any) -> SweepConfig:
    """Return a sweep of four trials."""
    config = SweepConfig(
        tasks=["toy"], shots=2, seeds=[1, 2], n_trials=4, sampler_seed=3,
        space={"prompt.rank": Choice([1, 2, "full"]), "prompt.bits": Choice([1, 16]),
               "train.lr": Range(low=0.01, high=1.0, log=True)},
        first=[{"prompt.rank": "full", "prompt.bits": 16, "train.lr": 0.1}],
        cpus_per_trial=1, gpus_per_trial=0, max_failures=0,
    )  # fmt: skip
    return config.model_copy(update=changes)


def of_ranks(*ranks: int | str) -> list[dict[str, Any]]:
    """Return configurations of these ranks, to begin with."""
    return [{"prompt.rank": rank, "prompt.bits": 16, "train.lr": 0.1} for rank in ranks]


class Ended:
    """Gathers how trials ended."""

    def __init__(self) -> None:
        self.finished: list[TrialRecord] = []
        self.pruned: list[TrialRecord] = []
        self.failed: dict[int, str] = {}
        self.on_finished = self.finished.append
        self.on_pruned = self.pruned.append
        self.on_failed = self.failed.__setitem__


def sweep(search: Search, job: SweepJob, folder: Path) -> tuple[list[TrialRecord], dict[int, str]]:
    """Run a sweep in which no trial is stopped early; return what finished and what failed."""
    ended = Ended()
    run_sweep(search, job, folder, ended)
    assert not ended.pruned
    return ended.finished, ended.failed


def error_of(search: Search) -> str:
    """Return the text that the study keeps of its one failed trial."""
    [trial] = [trial for trial in search.study.trials if "error" in trial.user_attrs]
    return str(trial.user_attrs["error"])
