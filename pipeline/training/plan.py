"""Which configurations are refit: each once, under all the names that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.training.config import EvaluateConfig
from pipeline.training.records import TrialRecord, Winners
from pipeline.training.refit import ZERO_SHOT, ZERO_SHOT_OWN, Fit
from pipeline.training.results import Member
from pipeline.training.settings import Configuration, Resolver


@dataclass(frozen=True)
class Planned:
    """A refit, and the methods that its results are reported under."""

    fit: Fit
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is refit and tested.

    Attributes:
        wanted: configurations by method and task, with every seed and all numbers of shots.
        extra: the same, with the first seed and the most shots alone.
        members: the Pareto front that is refit, smallest first.
    """

    wanted: Mapping[str, Mapping[str, Configuration]]
    extra: Mapping[str, Mapping[str, Configuration]] = field(default_factory=dict)
    members: Sequence[Member] = ()

    @property
    def methods(self) -> list[str]:
        """All methods, in the order of the results."""
        return [ZERO_SHOT, ZERO_SHOT_OWN, *sorted(self.wanted), *self.extra]

    def largest(self, key: str) -> int:
        """Return the largest value of a key of the prompts, such as `n_ctx`."""
        parts = (*self.wanted.values(), *self.extra.values())
        return max(int(getattr(one.prompt, key)) for part in parts for one in part.values())

    def fits(
        self, tasks: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
    ) -> list[Planned]:
        """Return every fit once.

        Args:
            tasks: that are trained on, in this order.
            shots: images per class.
            seeds: the first is the registered one.
        """
        found: dict[tuple[Any, ...], Planned] = {}
        for part, counts, own in (
            (self.wanted, shots, seeds),
            (self.extra, [max(shots)], seeds[:1]),
        ):
            for method, by_task in part.items():
                for task in (task for task in tasks if task in by_task):
                    prompt, train = by_task[task]
                    for count in counts:
                        key = (task, count, prompt.model_dump_json(), train.model_dump_json())
                        fit = Fit(method, task, count, prompt, train, tuple(own))
                        known = found.get(key, Planned(fit, ()))
                        found[key] = Planned(known.fit, (*known.methods, method))
        return list(found.values())


def make_plan(
    resolver: Resolver, config: EvaluateConfig, tasks: Sequence[str], chosen: Winners
) -> Plan:
    """Return what `evaluate` asks for.

    These are the methods of `config` as params.yaml has them, the sweep's winners, and if asked
    for, those that each task of the sweep would have chosen on its own, and the rest of the front.

    Raises:
        ValueError: if there is no such method, or the winners' settings are not allowed.
    """
    settings: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(tasks, {"method": name}) for name in config.methods
    }
    for role, record in chosen.winners.items():
        settings[role] = dict.fromkeys(tasks, record.settings)
    for role, records in chosen.per_task.items() if config.per_task else ():
        settings[f"{role}_per_task"] = {task: one.settings for task, one in records.items()}
    members = front(chosen, config.pareto)
    extra = {m.method: dict.fromkeys(tasks, m.settings) for m in members if not m.roles}
    wanted, rest = (
        {
            method: {task: resolver.resolve(own) for task, own in by_task.items()}
            for method, by_task in part.items()
        }
        for part in (settings, extra)
    )
    return Plan(wanted, rest, members)


def front(chosen: Winners, everyone: bool) -> list[Member]:
    """Return the sweep's Pareto front, smallest first; without `everyone`, trials with a role."""
    members = [_member(record, chosen.winners) for record in chosen.pareto]
    return [member for member in members if everyone or member.roles]


def _member(record: TrialRecord, winners: Mapping[str, TrialRecord]) -> Member:
    roles = tuple(role for role, winner in winners.items() if winner.number == record.number)
    method = roles[0] if roles else f"pareto-{record.number}"
    return Member(method, roles, record.number, record.score, record.size_bytes, record.settings)
