"""Typed records of trials and tests, on disk as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        number: of the trial in its study.
        settings: dotted names and values.
        score: harmonic mean of `base` and `new`, in [0, 1], from validation images.
        base: accuracy on the classes that were trained, mean over tasks and seeds.
        new: accuracy on the pseudo-new classes, mean over tasks and seeds.
        size_bytes: learned state of one task's prompt.
        tasks: base and new per task.
        history: loss, base and new after each epoch.
        seconds: of training, all tasks and seeds.
    """

    number: int
    settings: dict[str, Any]
    score: float
    base: float
    new: float
    size_bytes: int
    tasks: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    seconds: float


@dataclass(frozen=True)
class FailedTrial:
    """A trial that raised, hung or lost its worker too often; `reason` is the error's last line."""

    number: int
    settings: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Winners:
    """What a sweep chose, on validation data only.

    Attributes:
        study: its name.
        winners: trials by role: champion, compact, and coop if it was tried.
        pareto: the front of score and bytes, smallest first.
        per_task: by role and task, what each task would have chosen on its own.
    """

    study: str
    winners: dict[str, TrialRecord]
    pareto: list[TrialRecord]
    per_task: dict[str, dict[str, TrialRecord]]


@dataclass(frozen=True)
class Measurement:
    """One accuracy: a method, trained on a task with a seed, on one target.

    Attributes:
        method: `zero_shot`, a named method, or `coop`, `compact`, `champion` of the sweep.
        source: the task that was trained on.
        shots: images per class; 0 for zero-shot.
        seed: of the shots, the start and the data order; None for zero-shot.
        target: the task that is tested.
        side: of its classes: base, new or all.
        domain: of its images: `shots`, `held-out`, or a name.
        accuracy: in [0, 1], on test images.
        size_bytes: learned state of the prompt.
        n_parameters: trained scalars.
        seconds: of training, per prompt.
    """

    method: str
    source: str
    shots: int
    seed: int | None
    target: str
    side: str
    domain: str
    accuracy: float
    size_bytes: int
    n_parameters: int
    seconds: float


@dataclass(frozen=True)
class TestRow:
    """One method on one task with one seed, base to new; accuracies in [0, 1], on test images.

    Attributes:
        method: `zero_shot`, a named method, or `coop`, `compact`, `champion` of the sweep.
        task: its name.
        seed: of the shots, the start and the data order; None for zero-shot.
        base: accuracy among the base classes, in the styles that the shots come from.
        new: accuracy among the new classes, in the same styles.
        harmonic_mean: of the two.
        held_out_base: accuracy among the base classes in the held-out styles; None without any.
        held_out_new: accuracy among the new classes in the held-out styles; None without any.
        size_bytes: learned state of the prompt.
        n_parameters: trained scalars.
        seconds: of training, per prompt.
    """

    __test__ = False  # the name starts like a test's

    method: str
    task: str
    seed: int | None
    base: float
    new: float
    harmonic_mean: float
    held_out_base: float | None
    held_out_new: float | None
    size_bytes: int
    n_parameters: int
    seconds: float
