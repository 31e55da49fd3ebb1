"""A worker of the sweep: a Ray actor that trains one trial after the other.

Workers get the towers and all features once, through Ray's object store, and keep them between
trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from ray import tune

from pipeline.clip.encoders import TextSide
from pipeline.core.device import usable_device
from pipeline.core.timeout import time_limit
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.sweep.checkpoint_store import Vault
from pipeline.sweep.study import SweepConfig
from pipeline.training.checkpoint import pack_trial, unpack_trial
from pipeline.training.config import TrainConfig
from pipeline.training.records import TrialRecord
from pipeline.training.trial import Trial

Settings = dict[str, Any]


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

    Every round leaves a checkpoint in the vault, from which another worker can go on.
    """

    def setup(self, config: dict[str, Any], job: SweepJob, vault: Vault) -> None:
        """Keep what all trials share and take the first one."""
        torch.set_num_threads(max(1, int(job.sweep.cpus_per_trial)))
        job.text.to(usable_device(job.sweep.gpus_per_trial))
        self.job, self.vault = job, vault
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; it is built with its first round, where Ray Tune retries."""
        self.number, self.settings = new_config["number"], new_config["settings"]
        self.trial: Trial | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Train one round; the result carries the trial's record as far as it is.

        A round that hangs ends the worker, and tells the vault where it hung.
        """
        timeout_s = self.job.sweep.round_timeout_s
        if timeout_s:
            self.vault.begin(self.number)
        with time_limit(timeout_s, partial(self.vault.hangs, self.number)):
            trial = self.trial = self.trial or self.begin()
            if not trial.done:  # else a worker died between the last round and its result
                trial.run_round()
                self.vault.keep(self.number, pack_trial(trial))
        return {
            **trial.history[-1],
            "done": trial.done,
            "training_iteration": len(trial.history),  # also of a trial that came from the vault
            "record": asdict(self.record(trial)),
        }

    def begin(self) -> Trial:
        """Build the trial, and bring it to its last checkpoint if there is one."""
        job = self.job
        prompt, train = job.resolve(self.settings)
        sweep = job.sweep
        trial = Trial(
            job.text, job.tasks, prompt, train, sweep.shots, sweep.seeds, sweep.validation
        )
        data = self.vault.last(self.number)
        if data is not None:
            unpack_trial(data, trial)
        return trial

    def record(self, trial: Trial) -> TrialRecord:
        """Return what is kept of the trial."""
        last = trial.history[-1]
        return TrialRecord(
            number=self.number,
            settings=self.job.expand(self.settings),
            score=last["score"],
            base=last["base"],
            new=last["new"],
            size_bytes=trial.size_bytes,
            tasks=trial.tasks,
            history=trial.history,
            seconds=trial.seconds,
        )
