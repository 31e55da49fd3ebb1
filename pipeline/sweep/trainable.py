"""A worker of the sweep: a Ray actor that trains one trial after the other.

Workers get the towers and all features once, through Ray's object store, and keep them between
trials. The code here moves trials; whatever can change a number is in job.py and below it.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from pipeline.core.timeout import time_limit
from pipeline.sweep.job import SweepJob, TrialSpec
from pipeline.training.checkpoint import pack_trial, unpack_trial
from pipeline.training.trial import Trial


class TrialActor(tune.Trainable):  # type: ignore[misc]  # Ray is untyped
    """A Ray worker that runs one trial after the other; an iteration is a round.

    After every round the store has a checkpoint, from which another worker can resume the trial.
    """

    def setup(self, config: dict[str, Any], job: SweepJob, store: Any) -> None:
        """Keep what all trials share and take the first one."""
        job.start_worker()
        self.job, self.store = job, store
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; it is built with its first round, where Ray Tune retries."""
        self.spec: TrialSpec = new_config["spec"]
        self.trial: Trial | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Train one round; return the trial's record so far.

        A round that hangs ends the worker, after it reported the place to the store.
        """
        number, timeout_s = self.spec.number, self.job.sweep.round_timeout_s
        if timeout_s:
            self.store.begin.remote(number)
        with time_limit(timeout_s, self.report_hang):
            trial = self.trial = self.trial or self.begin()
            if not trial.done:  # else a worker died between the last round and its result
                trial.run_round()
                ray.get(self.store.put.remote(number, pack_trial(trial)))
        return {
            "done": trial.done,
            "training_iteration": len(trial.history),  # also of a trial that was resumed
            "record": self.job.record(self.spec, trial),
        }

    def begin(self) -> Trial:
        """Build the trial, and resume it from its last checkpoint if there is one."""
        trial = self.job.trial(self.spec)
        data = ray.get(self.store.last.remote(self.spec.number))
        if data is not None:
            unpack_trial(data, trial)
        return trial

    def report_hang(self, place: str) -> None:
        """Report where the round hangs."""
        ray.get(self.store.report_hang.remote(self.spec.number, place))
