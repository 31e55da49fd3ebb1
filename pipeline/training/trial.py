"""A trial of the sweep: one configuration on all tasks, scored on validation data only."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from pipeline.clip.encoders import TextSide
from pipeline.core.errors import report_all
from pipeline.data.classes import split_base_new
from pipeline.data.manifest import SPLITS
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.training.config import TrainConfig, Validation
from pipeline.training.metrics import harmonic_mean
from pipeline.training.task_run import Point, TaskRun


def check_splits(tasks: Sequence[TaskFeatures], wanted: Sequence[str]) -> None:
    """Refuse tasks without images in some split: they can be tested, but not trained or swept.

    Raises:
        ValueError: naming every such task and what it lacks.
    """
    problems = []
    for task in tasks:
        has = {SPLITS[split] for split in set(task.split_N.tolist())}
        lacks = [split for split in wanted if split not in has]
        if lacks:
            problems.append(f"{task.name}: no {' and no '.join(lacks)} images")
    report_all("tasks that cannot take part; allowed are those with all splits", problems)


class Trial:
    """Train on half of the base classes of every task; the other half stand in for new ones.

    No test image and no image of a new class is ever looked at.
    """

    def __init__(
        self,
        text: TextSide,
        tasks: Sequence[TaskFeatures],
        prompt: PromptConfig,
        train: TrainConfig,
        shots: int,
        seeds: Sequence[int],
        validation: Validation = "all",
    ) -> None:
        """Build the runs of all tasks; `validation` as in `validation_rows`."""
        self.rounds, self.validation = train.rounds, validation
        self.history: list[dict[str, float]] = []
        self.tasks: dict[str, dict[str, float]] = {}
        self.seconds = 0.0
        self.runs: list[TaskRun] = []
        self.classes: list[tuple[list[int], list[int]]] = []
        points = [Point(prompt, train.lr, seed) for seed in seeds]
        for features in tasks:
            base, _ = split_base_new(range(len(features.class_names)))
            trained, pseudo_new = split_base_new(base)
            self.classes.append((trained, pseudo_new))
            self.runs.append(TaskRun(text, features, points, train, trained, shots))

    @property
    def done(self) -> bool:
        """Whether all rounds are trained."""
        return len(self.history) == self.rounds

    @property
    def size_bytes(self) -> int:
        """Bytes of learned state of one prompt."""
        return self.runs[0].stored()[0].size_bytes

    def run_round(self) -> dict[str, float]:
        """Train a round on every task; return loss, base, new and score, means over all.

        Raises:
            ArithmeticError: if something is not finite, saying what, where and in which round.
        """
        start, n_round = time.perf_counter(), len(self.history) + 1
        losses = []
        with told_in(f"round {n_round}"):
            for run in self.runs:
                with told_in(f"task {run.features.name}"):
                    losses.append(mean(run.fit.run_round()))
            tasks = self.measure()
        base, new = (mean(task[key] for task in tasks.values()) for key in ("base", "new"))
        measured = {"loss": mean(losses), "base": base, "new": new}
        measured["score"] = harmonic_mean(base, new)
        self.tasks = tasks
        self.seconds += time.perf_counter() - start
        self.history.append(measured)
        return measured

    def measure(self) -> dict[str, dict[str, float]]:
        """Return validation accuracy on trained and pseudo-new classes, per task.

        Raises:
            ArithmeticError: if one is not finite.
        """
        result = {}
        for run, (trained, pseudo_new) in zip(self.runs, self.classes, strict=True):
            with told_in(f"task {run.features.name}"):
                found = {
                    "base": mean(run.validate(trained, self.validation)),
                    "new": mean(run.validate(pseudo_new, self.validation)),
                }
                for name, value in found.items():
                    if not math.isfinite(value):
                        raise ArithmeticError(f"accuracy on {name} classes is {value}")
            result[run.features.name] = found
        return result


@contextmanager
def told_in(place: str) -> Iterator[None]:
    """Say where something was not finite.

    Raises:
        ArithmeticError: that of the block, with the place in front.
    """
    try:
        yield
    except ArithmeticError as error:
        raise ArithmeticError(f"{place}: {error}") from None
