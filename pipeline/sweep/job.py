"""What a worker trains: what all trials of a sweep share, and what each is on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.clip.encoders import TextSide
from pipeline.core.device import usable_device
from pipeline.core.provenance import Origin
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.sweep.config import SweepConfig
from pipeline.training.config import TrainConfig
from pipeline.training.records import TrialRecord
from pipeline.training.settings import Settings
from pipeline.training.trial import Trial


@dataclass(frozen=True)
class TrialSpec:
    """One trial.

    Attributes:
        number: in its study.
        settings: dotted names and values, with those of its method.
        prompt, train: the configuration that they stand for.
    """

    number: int
    settings: Settings
    prompt: PromptConfig
    train: TrainConfig


@dataclass(frozen=True)
class SweepJob:
    """What every trial of a sweep shares.

    Attributes:
        text: the text tower and tokenized names.
        tasks: their features.
        sweep: resources, shots and seeds.
        origin: the code that trains and measures.
    """

    text: TextSide
    tasks: Sequence[TaskFeatures]
    sweep: SweepConfig
    origin: Origin

    def start_worker(self) -> None:
        """Give this process the threads and the device of a trial."""
        torch.set_num_threads(max(1, int(self.sweep.cpus_per_trial)))
        self.text.to(usable_device(self.sweep.gpus_per_trial))

    def trial(self, spec: TrialSpec) -> Trial:
        """Build a trial; nothing is trained yet."""
        sweep = self.sweep
        return Trial(
            self.text, self.tasks, spec.prompt, spec.train, sweep.shots, sweep.seeds,
            sweep.validation,
        )  # fmt: skip

    def record(self, spec: TrialSpec, trial: Trial) -> TrialRecord:
        """Return the record of a trial so far."""
        last = trial.history[-1]
        return TrialRecord(
            number=spec.number,
            settings=spec.settings,
            score=last["score"],
            base=last["base"],
            new=last["new"],
            size_bytes=trial.size_bytes,
            tasks=trial.tasks,
            history=list(trial.history),
            seconds=trial.seconds,
            origin=self.origin,
        )
