"""Everything that the report shows, computed from what `sweep` and `evaluate` wrote."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import NamedTuple

from pipeline.core import paths
from pipeline.report.examples import ExampleGroup
from pipeline.report.methods import METHODS, Look, look
from pipeline.report.outcome import BASE_TO_NEW, MEASURES, Outcome, summarize
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.importance import Importance, importances
from pipeline.sweep.selection import choose_champion, pareto_front
from pipeline.training.config import TrainConfig
from pipeline.training.inputs import check_study
from pipeline.training.records import FailedTrial, TrialRecord
from pipeline.training.results import Results
from pipeline.training.settings import Resolver


@dataclass(frozen=True)
class Swept:
    """What `sweep` wrote: its name, where it comes from, and its trials by how they ended."""

    study: str
    tags: dict[str, str]
    trials: list[TrialRecord]
    pruned: list[TrialRecord]
    failed: list[FailedTrial]


class Settings(NamedTuple):
    """What the report must know of params.yaml and of the data.

    Attributes:
        sweep, train: these sections.
        resolver: the named methods.
        source: of the data.
        views: random crops per training image.
        compact_within: how far below the best score the compact prompt may be.
        is_published_benchmark: whether results may be compared with those of the papers.
        usage: lines of Python that use the winner.
    """

    sweep: SweepConfig
    train: TrainConfig
    resolver: Resolver
    source: str
    views: int
    compact_within: float
    is_published_benchmark: bool = False
    usage: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that the pages, the charts and the terminal show."""

    swept: Swept
    results: Results
    settings: Settings
    outcome: Outcome
    examples: list[ExampleGroup]

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials that ran to their end."""
        return self.swept.trials

    @property
    def winners(self) -> dict[str, TrialRecord]:
        """The chosen trials, by role."""
        return self.results.winners

    @cached_property
    def front(self) -> list[TrialRecord]:
        """The trials that no other beats in score without being larger."""
        return pareto_front(self.trials)

    @cached_property
    def importances(self) -> list[Importance]:
        """How much each axis of the sweep matters."""
        return importances(self.trials, self.settings.sweep.space)

    @cached_property
    def named(self) -> dict[str, TrialRecord]:
        """The best trial of every named method that the sweep tried."""
        resolver = self.settings.resolver
        found = {
            name: [trial for trial in self.trials if resolver.is_method(trial.settings, name)]
            for name in resolver.methods
        }
        return {name: choose_champion(own) for name, own in found.items() if own}

    @cached_property
    def roles(self) -> dict[int, Look]:
        """How marked trials are shown, by number: all their names, in the champion's colour first.

        Marked are the winners, and the best trials of the papers' methods.
        """
        marked = {**self.named, **self.winners}
        found: dict[int, Look] = {}
        for role in [*reversed(METHODS), *(name for name in marked if name not in METHODS)]:
            if role in marked:
                first, number = look(role), marked[role].number
                seen = found.get(number)
                same = seen._replace(label=f"{seen.label} = {first.label}") if seen else first
                found[number] = same
        return found

    @property
    def n_seeds(self) -> int:
        """Seeds of the test; 1 if only zero-shot was tested."""
        return max(1, len({one.seed for one in self.results.measurements} - {None}))

    @property
    def n_tasks(self) -> int:
        """Tasks that were trained on for the test."""
        return len({one.source for one in self.results.measurements})

    @property
    def styles(self) -> dict[str, list[str]]:
        """The domains of shots and the held-out ones."""
        data = self.results.data.values()
        return {
            name: sorted({domain for task in data for domain in getattr(task, name)})
            for name in ("shot_domains", "held_out_domains")
        }

    @property
    def training_images(self) -> tuple[int, int]:
        """Training images of the smallest and of the largest class of all tasks."""
        data = self.results.data.values()
        return min(task.fewest for task in data), max(task.most for task in data)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """What `dvc metrics show` compares: per method, rounded, in [0, 1] and bytes."""
        outcome = self.outcome
        found: dict[str, dict[str, float]] = {name: {} for name in outcome.methods}
        if outcome.protocol != BASE_TO_NEW:
            keys = ["method", "target", "domain", "shots"]
            means = outcome.found.groupby(keys, sort=False)["accuracy"].mean().reset_index()
            for method, *place, value in means.itertuples(index=False):
                found[method]["/".join(map(str, place))] = round(value, 4)
            return found
        for name, own in found.items():
            for measure in (*MEASURES, *outcome.held_out):
                own[measure] = round(outcome.mean(name, measure), 4)
            spread = outcome.of(name).std()
            own |= {} if isnan(spread) else {"harmonic_mean_spread": round(spread, 4)}
            own["size_bytes"] = outcome.size(name)
        return found

    @property
    def provenance(self) -> dict[str, str]:
        """Where the numbers come from; sweep and test apart where they differ."""
        tags, test = self.swept.tags, self.results.provenance
        versions = {
            k.removeprefix("version."): v for k, v in tags.items() if k.startswith("version.")
        }
        lines = {"study": self.swept.study}
        for name in (
            "git_commit",
            "code",
            "data_hash",
            "backbone",
            "versions",
            "seeds",
            "sampler_seed",
        ):
            sweep = versions if name == "versions" else tags.get(name)
            stages = {"sweep": sweep, "test": getattr(test, name, None)}
            same = len(set(map(written, stages.values())) - {""}) == 1
            for stage, value in stages.items():
                if value:
                    suffix = "" if same else f" ({stage})"
                    lines[name.replace("_", " ") + suffix] = written(value)
        system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        return {**lines, "report made by": system}


def written(value: str | Mapping[str, str] | None) -> str:
    """Return a value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {version}" for key, version in value.items())
    return str(value or "")


def build_report(
    swept: Swept, results: Results, settings: Settings, examples: list[ExampleGroup]
) -> Report:
    """Summarize what `sweep` and `evaluate` wrote.

    Raises:
        ValueError: if they are of different studies, or a measurement is missing or doubled.
    """
    check_study(paths.RESULTS, results.study, swept.study, "evaluate")
    outcome = summarize(results.protocol, results.measurements)
    return Report(swept, results, settings, outcome, examples)
