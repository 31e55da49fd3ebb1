"""What `evaluate` writes: measurements, what they were measured on, and what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pipeline.core.provenance import Origin
from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import Measurement, TrialRecord


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


@dataclass(frozen=True)
class Member:
    """A trial of the Pareto front of score and bytes.

    Attributes:
        method: the name of its refit: its first role, or `pareto-<number>`.
        roles: champion, compact, coop, several or none.
        trial: its number.
        score, size_bytes, settings: as the sweep recorded them.
    """

    method: str
    roles: tuple[str, ...]
    trial: int
    score: float
    size_bytes: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Front:
    """The Pareto front, smallest first, and the measurements of members without a role."""

    members: list[Member]
    measurements: list[Measurement]


@dataclass(frozen=True)
class Provenance(Origin):
    """The code, backbone, packages and data behind results.

    Attributes:
        backbone: its fingerprint.
        versions: of packages.
        data_hash: of all manifests.
    """

    backbone: str
    versions: dict[str, str]
    data_hash: str


@dataclass(frozen=True)
class Results:
    """All that `evaluate` measured.

    Attributes:
        study: the sweep's name.
        winners: its chosen trials, by role.
        protocol: the name of the protocol.
        measurements: of zero-shot, named methods and winners, in order.
        pareto: the front.
        data: by trained task.
        provenance: what made them.
    """

    study: str
    winners: dict[str, TrialRecord]
    protocol: str
    measurements: list[Measurement]
    pareto: Front
    data: dict[str, TaskData]
    provenance: Provenance

    @property
    def averages(self) -> dict[str, float]:
        """Accuracies, means over tasks and seeds, and bytes, by method and what was tested."""
        groups: dict[str, list[float]] = {}
        for one in self.measurements:
            words = (one.method, one.side, one.domain, f"{one.shots}_shots" if one.shots else "")
            groups.setdefault("/".join(filter(None, words)), []).append(one.accuracy)
            groups[f"{one.method}/size_bytes"] = [float(one.size_bytes)]
        return {name: mean(values) for name, values in groups.items()}


@dataclass(frozen=True)
class PromptRecord:
    """What the file of a refit prompt says of it.

    Attributes:
        method, task, seed: what it is the prompt of.
        scores: test accuracies on its own task, in [0, 1]; see `scores`.
        size_bytes: of learned state.
        n_parameters: trained scalars.
        settings: the configuration: sections `prompt` and `train`.
        class_names: of the task.
        backbone: the section of params.yaml.
        origin: the code that trained it.
    """

    method: str
    task: str
    seed: int
    scores: dict[str, float]
    size_bytes: int
    n_parameters: int
    settings: dict[str, dict[str, Any]]
    class_names: tuple[str, ...]
    backbone: dict[str, Any]
    origin: Origin


def scores(own: Sequence[Measurement]) -> dict[str, float]:
    """Return what a prompt reached on the task that it was trained on, in [0, 1].

    These are `base`, `new` and `harmonic_mean`, or `accuracy` where all classes are trained.
    """
    reached = {one.side: one.accuracy for one in own if one.domain == "shots"}
    if set(reached) == {"base", "new"}:
        return {**reached, "harmonic_mean": harmonic_mean(**reached)}
    return {"accuracy": reached["all"]}
