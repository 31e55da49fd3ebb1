"""What is tried next. Optuna's samplers look at a study in memory, which has a bounded past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.sweep.config import Choice, Range, SweepConfig

Settings = dict[str, Any]
STARTUP_TRIALS = 8
"""Random proposals before TPE has something to learn from."""
WINDOW = 200
"""Ended trials that a sampler looks at, at most."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def distributions(space: dict[str, Choice | Range]) -> dict[str, BaseDistribution]:
    """Return the axes in Optuna's terms; those of a grid are choices."""
    return {
        name: FloatDistribution(axis.low, axis.high, log=axis.log)
        if isinstance(axis, Range) and not axis.steps
        else CategoricalDistribution(axis.points)
        for name, axis in space.items()
    }


class Proposals:
    """Proposals of TPE (NeurIPS 2011) or of chance.

    The sampler sees a study in memory that has all trials as long as no more than `window` have
    ended: proposals are then exactly those of Optuna's sampler on the whole study. When there are
    more, half of the window is forgotten: what stays is the better half of what may stay (by
    rank of non-domination, or by score), and the latest trials. The cost of a proposal is
    therefore bounded, however long the sweep is.
    """

    def __init__(self, config: SweepConfig, seed: int, window: int = WINDOW) -> None:
        """Start with an empty past."""
        self.space, self.window = distributions(config.space), window
        self.directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        if config.objective == "score":
            self.directions = self.directions[:1]
        self.random = optuna.samplers.RandomSampler(seed=seed)
        self.sampler: optuna.samplers.BaseSampler = self.random
        if config.sampler == "tpe":
            self.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        self.running: dict[int, optuna.Trial] = {}
        self.proposed: optuna.Trial | None = None
        self._begin([])

    def remember(self, trials: Sequence[FrozenTrial]) -> None:
        """Take the trials of an old study that ended, in order of number."""
        self._begin(trials if len(trials) <= self.window else self._kept(trials))

    def propose(self, explore: bool) -> Settings:
        """Return settings to try; with `explore`, drawn at random. `accept` or `reject` follows."""
        self.study.sampler = self.random if explore else self.sampler
        self.proposed = self.study.ask(self.space)
        return dict(self.proposed.params)

    def reject(self) -> None:
        """The last proposal is not tried."""
        assert self.proposed is not None
        self.study.tell(self.proposed, state=TrialState.FAIL)
        self.proposed = None
        self.n_forgettable += 1
        self._forget()

    def accept(self, number: int, settings: Settings) -> None:
        """Settings become a trial: the last proposal, or others if none was made."""
        if self.proposed is None:
            self.study.enqueue_trial(settings)
            self.proposed = self.study.ask(self.space)
        self.running[number], self.proposed = self.proposed, None

    def tell(self, number: int, values: Sequence[float] | None, steps: Sequence[float]) -> None:
        """A trial ended with these values; None if it was stopped early."""
        trial = self.running.pop(number)
        for step, value in enumerate(steps, start=1):
            trial.report(value, step)
        self.study.tell(trial, values, state=None if values else TrialState.PRUNED)
        self.n_ended += 1
        self._forget()

    def fail(self, number: int) -> None:
        """A trial failed."""
        self.study.tell(self.running.pop(number), state=TrialState.FAIL)
        self.n_forgettable += 1

    def _forget(self) -> None:
        ended = self.study.get_trials(deepcopy=False, states=ENDED) if self._is_full else []
        if self.n_ended > self.window:
            self._begin(self._kept(ended))
        elif self.n_forgettable > self.window:  # these are never looked at
            self._begin(ended)

    @property
    def _is_full(self) -> bool:
        return max(self.n_ended, self.n_forgettable) > self.window

    def _begin(self, trials: Sequence[FrozenTrial]) -> None:
        """Begin a new study in memory with these trials and those that run, in order."""
        study = optuna.create_study(directions=self.directions)
        self.study, self.n_ended, self.n_forgettable = study, len(trials), 0
        running = {trial.number: number for number, trial in self.running.items()}
        old = {trial.number: trial for trial in trials}
        asked = {trial.number: trial.params for trial in self.running.values()}
        for place in sorted(old | asked):
            if place in old:
                study.add_trial(old[place])
            else:
                self.accept(running[place], asked[place])

    def _kept(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return half a window: its first half the best, the rest the latest of all others."""
        best = set(self._best(trials, self.window // 4))
        others = [trial.number for trial in trials if trial.number not in best]
        kept = best | set(others[len(others) - (self.window // 2 - len(best)) :])
        return [trial for trial in trials if trial.number in kept]

    def _best(self, trials: Sequence[FrozenTrial], count: int) -> list[int]:
        """Return the numbers of the best complete trials; front by front, if bytes count."""
        left = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if len(self.directions) == 1:
            left.sort(key=lambda trial: (-trial.values[0], trial.number))
            return [trial.number for trial in left[:count]]
        left.sort(key=lambda trial: (trial.values[1], -trial.values[0], trial.number))
        best: list[int] = []
        while left and len(best) < count:
            front, rest, top = [], [], float("-inf")
            for trial in left:
                if trial.values[0] > top:
                    top = trial.values[0]
                    front.append(trial.number)
                else:
                    rest.append(trial)
            best, left = [*best, *front], rest
        return best[:count]
