"""Refit configurations and test them by a protocol, next to zero-shot CLIP.

Shapes: S seeds, K classes, E joint embedding width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import accuracy
from pipeline.core.device import usable_device
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.stored import StoredPrompt
from pipeline.training.config import ProtocolConfig, TrainConfig
from pipeline.training.metrics import harmonic_mean
from pipeline.training.protocols import held_out_domains, targets, trained_classes
from pipeline.training.records import Measurement, TestRow
from pipeline.training.results import TaskData
from pipeline.training.task_run import Point, TaskRun, measure_prompts

ZERO_SHOT = "zero_shot"
"""The words of `prompt.init`, where tuning starts."""
ZERO_SHOT_OWN = "zero_shot_own"
"""The task's own template, written by hand."""
BASE_TO_NEW = ProtocolConfig(train="base", test="halves")


@dataclass(frozen=True)
class Fit:
    """One configuration to refit on one task, once for every seed."""

    method: str
    task: str
    shots: int
    prompt: PromptConfig
    train: TrainConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class EvaluationJob:
    """What all refits share; `gpus` is a worker's share of a GPU."""

    text: TextSide
    tasks: dict[str, TaskFeatures]
    protocol: ProtocolConfig
    gpus: float = 0


def describe_data(features: TaskFeatures) -> TaskData:
    """Describe the images of a task."""
    counts = Counter(features.training_labels).values()
    return TaskData(features.shot_domains, held_out_domains(features), min(counts), max(counts))


def refit(job: EvaluationJob, fit: Fit) -> tuple[list[Measurement], list[StoredPrompt]]:
    """Train one configuration on a task, every seed, and test the stored prompts."""
    job.text.to(usable_device(job.gpus))
    features = job.tasks[fit.task]
    start = time.perf_counter()
    points = [Point(fit.prompt, fit.train.lr, seed) for seed in fit.seeds]
    classes = trained_classes(job.protocol, features)
    run = TaskRun(job.text, features, points, fit.train, classes, fit.shots)
    for _ in range(fit.train.rounds):
        run.fit.run_round()
    seconds = (time.perf_counter() - start) / len(fit.seeds)
    prompts = run.stored()
    n_parameters = sum(p.numel() for p in run.replicas[0].prompt.parameters())
    measured = []
    for target in targets(job.protocol, fit.task, job.tasks):
        accuracies = measure_prompts(
            job.text, job.tasks[target.task], prompts, "test", target.classes, target.domains
        )
        measured += [
            Measurement(
                fit.method, fit.task, fit.shots, seed, target.task, target.side, target.domain,
                value, prompt.size_bytes, n_parameters, seconds,
            )
            for seed, value, prompt in zip(fit.seeds, accuracies, prompts, strict=True)
        ]  # fmt: skip
    return measured, prompts


def measure_zero_shot(
    protocol: ProtocolConfig,
    tasks: Mapping[str, TaskFeatures],
    source: str,
    class_embeddings: Mapping[str, Tensor],
    method: str = ZERO_SHOT,
) -> list[Measurement]:
    """Measure the plain captions on what prompts trained on a source are tested on.

    Args:
        protocol: which targets.
        tasks: all tasks.
        source: the task that others are trained on.
        class_embeddings: `[K, E]` of the plain captions of all classes, by task.
        method: what the captions are called in the results.
    """
    measured = []
    for target in targets(protocol, source, tasks):
        features, class_KE = tasks[target.task], class_embeddings[target.task]
        image_NE, label_N = features.select("test", target.classes, target.domains)
        value = accuracy(image_NE, class_KE[list(target.classes)], label_N)
        place = (target.task, target.side, target.domain)
        measured.append(Measurement(method, source, 0, None, *place, value, 0, 0, 0.0))
    return measured


def zero_shot_row(features: TaskFeatures, class_embeddings_KE: Tensor) -> TestRow:
    """Measure the task's plain caption, base to new: `class_embeddings_KE` of all its classes."""
    name = features.name
    own = {name: features}, name, {name: class_embeddings_KE}
    return base_to_new_rows(measure_zero_shot(BASE_TO_NEW, *own))[0]


def base_to_new_rows(measurements: Sequence[Measurement]) -> list[TestRow]:
    """Gather the measurements of base and new classes, one row per method, task and seed."""
    groups: dict[tuple[str, str, int | None], dict[tuple[str, str], Measurement]] = {}
    for one in measurements:
        group = groups.setdefault((one.method, one.source, one.seed), {})
        group[one.side, one.domain] = one
    rows = []
    for (method, task, seed), group in groups.items():
        base, new = (group[side, "shots"].accuracy for side in ("base", "new"))
        far = [group.get((side, "held-out")) for side in ("base", "new")]
        far_base, far_new = (one.accuracy if one else None for one in far)
        any_one = group["base", "shots"]
        rows.append(
            TestRow(
                method, task, seed, base, new, harmonic_mean(base, new), far_base, far_new,
                any_one.size_bytes, any_one.n_parameters, any_one.seconds,
            )
        )  # fmt: skip
    return rows
