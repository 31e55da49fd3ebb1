"""The same sweep twice is the same sweep: whatever is slow, and with any number of workers."""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import cloudpickle

from pipeline.clip.encoders import TextSide
from pipeline.features.task import TaskFeatures
from pipeline.sweep.config import Choice, Range
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.sampler import STARTUP_TRIALS
from pipeline.training.records import SweepResults, TrialRecord
from pipeline.training.trial import Trial
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import Ended, FaultyJob, search, sweep_config, without_seconds

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
N_TRIALS, LAG = STARTUP_TRIALS + 10, 8
"""The last three proposals are TPE's."""
WORKERS = {1: 1.5, 2: 1.0, 8: 0.25}
"""By number: the CPUs of a trial, of which this test's Ray has 2. All compute with one thread."""
SPACE = {
    "prompt.rank": Choice([1, 2, "full"]),
    "prompt.bits": Choice([1, 16]),
    "train.lr": Range(low=1.0, high=30.0, log=True),
}


def delay(_: Trial) -> None:
    """Take some time, another one in every run."""
    time.sleep(random.SystemRandom().choice([0, 0, 0.1, 0.5]))


class Stops(Ended):
    """Ends the sweep after some trials."""

    def __init__(self, n_trials: int) -> None:
        super().__init__()
        self.n_left = n_trials
        self.on_finished = self.on_pruned = self.take

    def take(self, _: TrialRecord) -> None:
        self.n_left -= 1
        if not self.n_left:
            raise OSError("stopped here")


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_one_seed_gives_the_same_trials_scores_and_records(
    text: TextSide, features: TaskFeatures, tmp_path: Path, objective: str
) -> None:
    config = sweep_config(n_trials=N_TRIALS, lag=LAG, space=SPACE, first=[], objective=objective)

    def run(n_workers: int, listener: Ended) -> SweepResults:
        """Run a sweep with so many workers, in a study of their own."""
        own = config.model_copy(update={"cpus_per_trial": WORKERS[n_workers]})
        job = FaultyJob(text, [features], own, ORIGIN, delay)
        study = search(tmp_path / f"{n_workers}.db", "study", config, rounds=3)
        run_sweep(study, job, tmp_path / "ray", listener)
        assert not listener.failed
        return without_seconds(study.results())

    one = run(1, Ended())
    assert len(one.trials) + len(one.pruned) == N_TRIALS
    assert bool(one.pruned) == (objective == "score")
    with pytest.raises(OSError, match="stopped here"):
        run(2, Stops(7))
    assert run(2, Ended()) == one
    assert run(8, Ended()) == one
