"""What is tried next: Optuna's samplers, on a past that a fixed rule chooses and bounds."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.sweep.config import Choice, Range, SweepConfig
from pipeline.sweep.selection import pareto_front
from pipeline.training.records import TrialRecord
from pipeline.training.settings import Settings

STARTUP_TRIALS = 8
"""Trials that TPE needs to see; proposals before are drawn at random."""
WINDOW = 200
"""The largest number of ended trials that a sampler sees."""
MAX_REJECTED_TPE = 5
"""Rejected proposals in a row after which one is drawn at random: TPE learns nothing from them."""
MAX_REJECTED = 200
"""Rejected proposals in a row after which the space counts as exhausted."""


def distributions(space: dict[str, Choice | Range]) -> dict[str, BaseDistribution]:
    """Return the axes in Optuna's terms; those of a grid are choices."""
    return {
        name: FloatDistribution(axis.low, axis.high, log=axis.log)
        if isinstance(axis, Range) and not axis.steps
        else CategoricalDistribution(axis.points)
        for name, axis in space.items()
    }


class Seen(FrozenTrial):
    """A trial that a study in memory takes without a deep copy.

    Optuna 5.0 copies every trial that is added to a study, which takes 12 times as long as the rest
    of adding it. This can go when `InMemoryStorage.create_new_trial` copies less.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        """Share values, which nobody changes, but not the number, which the study sets."""
        return copy.copy(self)


class Sampler:
    """Proposals of TPE (NeurIPS 2011), of chance, or of a grid.

    A proposal is a function of the seed, its number, and the trials that were shown. TPE sees all
    of them while no more than `window` were shown: proposals are then those of Optuna's sampler on
    the whole study. When there are more, half of the window is dropped; half of what stays are the
    best (by rank of non-domination, or by score), the rest the latest. So the cost of a proposal is
    bounded, however long the sweep is.
    """

    def __init__(self, config: SweepConfig, window: int = WINDOW) -> None:
        """Start with nothing shown."""
        self.config, self.window = config, window
        self.space, self.directions = distributions(config.space), directions(config)
        self._past: list[tuple[TrialRecord, FrozenTrial]] = []
        self._grid = config.grid() if config.sampler == "grid" else iter(())

    def uses_results(self, number: int) -> bool:
        """Return whether a proposal depends on results: not if it is fixed, or drawn at random."""
        n_seen = number - self.config.lag + 1 if self.config.lag else STARTUP_TRIALS
        own = number >= len(self.config.first)
        return self.config.sampler == "tpe" and own and n_seen >= STARTUP_TRIALS

    def show(self, settings: Settings, record: TrialRecord, pruned: bool) -> None:
        """Show the result of a trial that ended."""
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        trial = self._trial(
            settings,
            state=state,
            values=None if pruned else objectives(record, self.config),
            intermediate_values=dict(enumerate(steps(record, self.config), 1)),
        )
        self._past.append((record, trial))
        if len(self._past) > self.window:
            self._past = self._kept()

    def propose(self, number: int, unseen: Sequence[Settings]) -> Iterator[Settings]:
        """Yield settings for a trial; the next whenever the last ones cannot be tried.

        Args:
            number: of the trial.
            unseen: settings of earlier trials whose results were not shown.
        """
        if number < len(self.config.first):
            yield dict(self.config.first[number])
        if self.config.sampler == "grid":
            while (settings := next(self._grid, None)) is not None:
                yield settings
            return
        rng = random.Random(f"{self.config.sampler_seed}/{number}")
        tpe = TPESampler(seed=rng.getrandbits(32), n_startup_trials=STARTUP_TRIALS)
        chance = RandomSampler(seed=rng.getrandbits(32))
        study = optuna.create_study(directions=self.directions, sampler=chance)
        learns = self.uses_results(number)
        if learns:
            study.add_trials(trial for _, trial in self._past)
            study.add_trials(self._trial(own, state=TrialState.RUNNING) for own in unseen)
        for attempt in range(MAX_REJECTED):
            study.sampler = tpe if learns and attempt < MAX_REJECTED_TPE else chance
            asked = study.ask(self.space)
            yield dict(asked.params)
            study.tell(asked, state=TrialState.FAIL)

    def _trial(self, settings: Settings, **result: Any) -> FrozenTrial:
        trial = create_trial(params=settings, distributions=self.space, **result)
        trial.__class__ = Seen
        return trial

    def _kept(self) -> list[tuple[TrialRecord, FrozenTrial]]:
        """Return half a window: its first half the best, the rest the latest of all others."""
        best = self._best(self.window // 4)
        others = [record.number for record, _ in self._past if record.number not in best]
        kept = {*best, *others[len(others) - (self.window // 2 - len(best)) :]}
        return [(record, trial) for record, trial in self._past if record.number in kept]

    def _best(self, count: int) -> set[int]:
        """Return the numbers of the best complete trials; front by front, if bytes count."""
        left = [record for record, trial in self._past if trial.state == TrialState.COMPLETE]
        best: list[TrialRecord] = []
        if self.config.objective == "score":
            best = sorted(left, key=lambda one: (-one.score, one.number))
        while left and len(best) < count:
            best += pareto_front(left)
            found = {record.number for record in best}
            left = [record for record in left if record.number not in found]
        return {record.number for record in best[:count]}


def directions(config: SweepConfig) -> list[StudyDirection]:
    """Return which way is better: score up and bytes down, or score alone."""
    both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return both if config.objective == "pareto" else both[:1]


def objectives(record: TrialRecord, config: SweepConfig) -> list[float]:
    """Return what the search compares."""
    return [record.score, float(record.size_bytes)][: len(directions(config))]


def steps(record: TrialRecord, config: SweepConfig) -> list[float]:
    """Return the score of every round; with two objectives Optuna takes none."""
    single = config.objective == "score"
    return [measured["score"] for measured in record.history] if single else []
