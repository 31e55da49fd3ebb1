"""Refit the winners on all base classes and test them, next to zero-shot CLIP.

Shapes: S seeds, K classes, E joint embedding width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.features import TaskFeatures
from pipeline.few_shot import split_base_new
from pipeline.metrics import accuracy, harmonic_mean
from pipeline.prompts import PromptConfig
from pipeline.run import Point, TaskRun, TextSide, measure_prompts
from pipeline.stored_prompt import StoredPrompt
from pipeline.train import TrainConfig

ZERO_SHOT = "zero_shot"


@dataclass(frozen=True)
class TestRow:
    """One method on one task with one seed; accuracies in [0, 1], on test images.

    Attributes:
        method: `zero_shot`, `coop`, `compact` or `champion`.
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


@dataclass(frozen=True)
class Fit:
    """One winner to refit on one task."""

    method: str
    task: str
    prompt: PromptConfig
    train: TrainConfig


@dataclass(frozen=True)
class EvaluationJob:
    """What all refits share; `device` is the workers'."""

    text: TextSide
    tasks: dict[str, TaskFeatures]
    shots: int
    seeds: Sequence[int]
    device: str = "cpu"


@dataclass(frozen=True)
class TaskData:
    """What readers of a task's results must know of its images.

    Attributes:
        shot_domains: those that training images come from, and the plain test too.
        held_out_domains: those of test images alone.
        fewest, most: training images of the smallest and of the largest class.
    """

    shot_domains: list[str]
    held_out_domains: list[str]
    fewest: int
    most: int


def describe_data(features: TaskFeatures) -> TaskData:
    """Return what a task's images are."""
    counts = Counter(features.training_labels).values()
    return TaskData(features.shot_domains, held_out_domains(features), min(counts), max(counts))


def held_out_domains(features: TaskFeatures) -> list[str]:
    """Return the domains that no training image comes from."""
    return [domain for domain in features.domains if domain not in features.shot_domains]


def refit(job: EvaluationJob, fit: Fit) -> tuple[list[TestRow], list[StoredPrompt]]:
    """Train one winner on all base classes of a task, every seed, and test the stored prompts."""
    job.text.to(job.device)
    features = job.tasks[fit.task]
    base, _ = split_base_new(range(len(features.class_names)))
    start = time.perf_counter()
    points = [Point(fit.prompt, fit.train.lr, seed) for seed in job.seeds]
    run = TaskRun(job.text, features, points, fit.train, base, job.shots)
    for _ in range(fit.train.rounds):
        run.fit.run_round()
    seconds = (time.perf_counter() - start) / len(job.seeds)
    prompts = run.stored()
    n_parameters = sum(p.numel() for p in run.replicas[0].prompt.parameters())
    return test_rows(job, fit, prompts, n_parameters, seconds), prompts


def test_rows(
    job: EvaluationJob, fit: Fit, prompts: Sequence[StoredPrompt], n_parameters: int, seconds: float
) -> list[TestRow]:
    """Measure stored prompts on base and new test images, in shot styles and held-out ones."""
    features = job.tasks[fit.task]
    halves = split_base_new(range(len(features.class_names)))
    domains, held_out = features.shot_domains, held_out_domains(features)
    base, new = (
        measure_prompts(job.text, features, prompts, "test", classes, domains) for classes in halves
    )
    far: list[list[float] | list[None]] = [
        measure_prompts(job.text, features, prompts, "test", classes, held_out)
        if held_out
        else [None] * len(prompts)
        for classes in halves
    ]
    return [
        TestRow(
            fit.method,
            fit.task,
            seed,
            base[i],
            new[i],
            harmonic_mean(base[i], new[i]),
            far[0][i],
            far[1][i],
            prompts[i].size_bytes,
            n_parameters,
            seconds,
        )
        for i, seed in enumerate(job.seeds)
    ]


def zero_shot_row(features: TaskFeatures, class_embeddings_KE: Tensor) -> TestRow:
    """Measure the task's plain caption: `class_embeddings_KE` of all its classes."""
    halves = split_base_new(range(len(features.class_names)))

    def measured(domains: list[str]) -> list[float]:
        return [
            accuracy(*_on(features, classes, domains, class_embeddings_KE)) for classes in halves
        ]

    held_out = held_out_domains(features)
    base, new = measured(features.shot_domains)
    far_base, far_new = measured(held_out) if held_out else (None, None)
    return TestRow(
        ZERO_SHOT,
        features.name,
        None,
        base,
        new,
        harmonic_mean(base, new),
        far_base,
        far_new,
        0,
        0,
        0.0,
    )


def _on(
    features: TaskFeatures, classes: Sequence[int], domains: list[str], class_embeddings_KE: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    image_NE, label_N = features.select("test", classes, domains)
    return image_NE, class_embeddings_KE[list(classes)], label_N
