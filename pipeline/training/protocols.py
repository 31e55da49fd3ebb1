"""What is trained on and what is tested on: the field's four protocols.

    base_to_new             train on the first half of the classes; test both halves (CoCoOp)
    few_shot                train on all classes at several numbers of shots; test all (CoOp)
    cross_dataset           train on one data set; test the others, with their own class names
    domain_generalization   train on one data set; test the same classes in other domains

A prompt does not know the classes that it was learned with, so it is tested with any names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.data.classes import split_base_new
from pipeline.features.task import TaskFeatures
from pipeline.training.config import ProtocolConfig


@dataclass(frozen=True)
class Target:
    """Test images of a task, in some domains, that are classified among some classes.

    Attributes:
        task: its name.
        side: of the classes: base, new or all.
        domain: the name of the domains: `shots` (those of the training images), `held-out`
            (all others), or that of one.
        classes: labels.
        domains: names.
    """

    task: str
    side: str
    domain: str
    classes: tuple[int, ...]
    domains: tuple[str, ...]


def trained_tasks(config: ProtocolConfig, tasks: Sequence[str]) -> list[str]:
    """Return the tasks that are trained on: not those that are only tested."""
    tested = config.targets or []
    return [config.source] if config.source else [task for task in tasks if task not in tested]


def trained_classes(config: ProtocolConfig, features: TaskFeatures) -> list[int]:
    """Return the labels that a fit on a task learns."""
    labels = range(len(features.class_names))
    return split_base_new(labels)[0] if config.train == "base" else list(labels)


def targets(
    config: ProtocolConfig, source: str, tasks: Mapping[str, TaskFeatures]
) -> Iterator[Target]:
    """Yield what prompts that were trained on a task are tested on."""
    features = tasks[source]
    every = tuple(range(len(features.class_names)))
    near, far = tuple(features.shot_domains), tuple(held_out_domains(features))
    if config.test == "halves":
        for side, classes in zip(("base", "new"), split_base_new(every), strict=True):
            yield Target(source, side, "shots", tuple(classes), near)
            if far:
                yield Target(source, side, "held-out", tuple(classes), far)
        return
    yield Target(source, "all", "shots", every, near)
    if config.test == "domains":
        for domain in far:
            yield Target(source, "all", domain, every, (domain,))
    if config.test in ("tasks", "domains"):
        others = list(tasks) if config.targets is None and config.test == "tasks" else []
        for name in (task for task in config.targets or others if task != source):
            other = tasks[name]
            domains = tuple(other.shot_domains or other.domains)
            yield Target(name, "all", "shots", tuple(range(len(other.class_names))), domains)


def held_out_domains(features: TaskFeatures) -> list[str]:
    """Return the domains that no training image comes from."""
    return [domain for domain in features.domains if domain not in features.shot_domains]
