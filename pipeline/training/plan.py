"""Which configurations are refit: each once, under all the names that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.training.records import TrialRecord
from pipeline.training.refit import Fit
from pipeline.training.settings import Configuration


@dataclass(frozen=True)
class Member:
    """A trial of the Pareto front of score and bytes.

    Attributes:
        record: the trial.
        roles: what else it is: champion, compact, coop, several or none.
    """

    record: TrialRecord
    roles: tuple[str, ...]

    @property
    def method(self) -> str:
        """What its refit is called: its first role, or `pareto-<number>`."""
        return self.roles[0] if self.roles else f"pareto-{self.record.number}"

    def describe(self) -> dict[str, Any]:
        """Return what the results say of it."""
        return {
            "method": self.method,
            "roles": list(self.roles),
            "trial": self.record.number,
            "score": self.record.score,
            "size_bytes": self.record.size_bytes,
            "settings": self.record.settings,
        }


def front(chosen: Mapping[str, Any], everyone: bool) -> list[Member]:
    """Return the sweep's Pareto front, smallest first.

    Args:
        chosen: what the sweep wrote: `winners` by role, and `pareto`.
        everyone: False leaves out trials that are nothing else.
    """
    numbers = {role: record["number"] for role, record in chosen["winners"].items()}
    members = [
        Member(
            TrialRecord(**record),
            tuple(role for role, number in numbers.items() if number == record["number"]),
        )
        for record in chosen["pareto"]
    ]
    return [member for member in members if everyone or member.roles]


@dataclass(frozen=True)
class Planned:
    """A refit, and the methods that its results are told under."""

    fit: Fit
    methods: tuple[str, ...]


def plan_fits(
    wanted: Mapping[str, Mapping[str, Configuration]],
    tasks: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    extra: Mapping[str, Mapping[str, Configuration]],
) -> list[Planned]:
    """Return every fit once.

    Args:
        wanted: configurations by method and task, fit with all shots and seeds.
        tasks: that are trained on, in this order.
        shots: images per class.
        seeds: the first is the registered one.
        extra: configurations that are fit with the most shots and the first seed alone, unless
            a wanted one is the same.
    """
    found: dict[tuple[str, int, str], Planned] = {}
    for methods, counts, own in ((wanted, shots, seeds), (extra, [max(shots)], seeds[:1])):
        for method, by_task in methods.items():
            for task in (task for task in tasks if task in by_task):
                prompt, train = by_task[task]
                for count in counts:
                    key = (task, count, prompt.model_dump_json() + train.model_dump_json())
                    fit = Fit(method, task, count, prompt, train, tuple(own))
                    known = found.get(key, Planned(fit, ()))
                    found[key] = Planned(known.fit, (*known.methods, method))
    return list(found.values())
