"""Small sweeps for tests, and how something is made to go wrong in their workers."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import cloudpickle

from pipeline.prompts.config import PromptConfig
from pipeline.sweep.config import Choice, Range, SweepConfig
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.job import SweepJob, TrialSpec
from pipeline.sweep.study import Search
from pipeline.training.records import SweepResults, TrialRecord
from pipeline.training.settings import Resolver
from pipeline.training.trial import Trial
from tests.helpers.toy import train_config

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


def resolver(rounds: int = 2) -> Resolver:
    """Return what settings are relative to: trials of so many rounds."""
    prompt = PromptConfig(init="a photo of a", rank="full", bits=16, n_ctx=2)
    return Resolver(prompt, train_config(2 * rounds, rounds=rounds), {}, None)


def search(path: Path, name: str, config: SweepConfig, rounds: int = 2) -> Search:
    """Open a study of trials of so many rounds."""
    return Search(path, name, config, resolver(rounds))


@dataclass(frozen=True)
class FaultyJob(SweepJob):
    """Calls `fault` before every round of a trial, in its worker."""

    fault: Callable[[Trial], None]

    def trial(self, spec: TrialSpec) -> Trial:
        """Build a trial that runs into faults."""
        trial = SweepJob.trial(self, spec)
        plain = trial.run_round

        def run_round() -> dict[str, float]:
            self.fault(trial)
            return plain()

        trial.run_round = run_round  # type: ignore[method-assign]  # this trial's own
        return trial


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
        self.rounds: list[TrialRecord] = []
        self.finished: list[TrialRecord] = []
        self.pruned: list[TrialRecord] = []
        self.failed: dict[int, str] = {}
        self.on_round = self.rounds.append
        self.on_finished = self.finished.append
        self.on_pruned = self.pruned.append
        self.on_failed = self.failed.__setitem__


def sweep(search: Search, job: SweepJob, folder: Path) -> tuple[list[TrialRecord], dict[int, str]]:
    """Run a sweep in which no trial is stopped early; return what finished and what failed."""
    ended = Ended()
    run_sweep(search, job, folder, ended)
    assert not ended.pruned
    return ended.finished, ended.failed


def without_seconds(results: SweepResults) -> SweepResults:
    """Return trials without the seconds that they took, all that may differ between two runs."""
    trials, pruned = (
        [replace(record, seconds=0.0) for record in records]
        for records in (results.trials, results.pruned)
    )
    return replace(results, trials=trials, pruned=pruned)


def error_of(search: Search) -> str:
    """Return the text that the study keeps of its one failed trial."""
    [trial] = [trial for trial in search.study.trials if "error" in trial.user_attrs]
    return str(trial.user_attrs["error"])
