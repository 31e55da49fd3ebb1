"""Which axes of a sweep mattered: importances beside those that chance alone gives.

Optuna's evaluator, on the sweep's records and not on its study: a report needs no database.

Shapes: S scorings, N trials.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipeline.sweep.config import Choice, Range
from pipeline.sweep.sampler import distributions
from pipeline.training.records import TrialRecord

TOP = 0.25
"""The share of trials that counts as best."""
FEWEST = 12
"""Trials below which nothing is said: the best of them would be two or three."""
SHUFFLES = 100
CHANCE = 0.95


@dataclass(frozen=True)
class Importance:
    """How much an axis tells the best quarter of the trials from all of them.

    Attributes:
        axis: its dotted name.
        share: its part of the divergences of all axes (PED-ANOVA, arXiv 2304.10255), in [0, 1].
        chance: what 95 of 100 shufflings of the scores stay at or below, in the same unit.
    """

    axis: str
    share: float
    chance: float

    @property
    def is_clear(self) -> bool:
        """Whether it is above what chance gives."""
        return self.share > self.chance


def importances(
    trials: Sequence[TrialRecord], space: Mapping[str, Choice | Range]
) -> list[Importance]:
    """Return the importance of every axis for the validation score, the largest first.

    The trials that a sampler chose are no random draw of the space: what it tried often among the
    best counts more. Shuffling the scores of the same trials shows how large an importance gets
    when the score has nothing to do with the axis. The same trials give the same numbers.

    Returns:
        Nothing with fewer than `FEWEST` trials, or when no axis varies.
    """
    if len(trials) < FEWEST:
        return []
    scores, generator = [trial.score for trial in trials], random.Random(0)
    shuffled_SN = [generator.sample(scores, len(scores)) for _ in range(SHUFFLES)]
    settings = [trial.settings for trial in trials]
    real, *others = ped_anova(space, settings, [scores, *shuffled_SN], TOP)
    total, rank = sum(real.values()), math.ceil(CHANCE * SHUFFLES) - 1
    found = [
        Importance(axis, value / total, sorted(other[axis] for other in others)[rank] / total)
        for axis, value in real.items()
        if total
    ]
    return sorted(found, key=lambda one: (-one.share, one.axis))


def ped_anova(
    space: Mapping[str, Choice | Range],
    settings: Sequence[Mapping[str, Any]],
    scores_SN: Sequence[Sequence[float]],
    top: float,
) -> list[dict[str, float]]:
    """Return how much each axis tells the best trials from all: PED-ANOVA, arXiv 2304.10255.

    Args:
        space: the axes; one that the trials do not have is left out.
        settings: of N trials; values outside of an axis widen it.
        scores_SN: S scorings of these trials, higher is better.
        top: the share of trials that counts as best.

    Returns:
        For every scoring, each axis's divergence: 0 or more, in no unit.
    """
    wide: dict[str, Choice | Range] = {}
    for name, axis in space.items():
        tried = [own[name] for own in settings if name in own]
        if isinstance(axis, Range) and not axis.steps and tried:
            low, high = min(axis.low, *tried), max(axis.high, *tried)
            wide[name] = Range(low=low, high=high, log=axis.log)
        elif tried:
            wide[name] = Choice(list(dict.fromkeys([*axis.points, *tried])))
    axes = distributions(wide)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for own in settings:
        known = {name: own[name] for name in axes}
        study.add_trial(optuna.trial.create_trial(params=known, distributions=axes, value=0.0))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it takes low targets as the best
        return [evaluator.evaluate(study, target=_negative(scores)) for scores in scores_SN]


def _negative(scores: Sequence[float]) -> Callable[[FrozenTrial], float]:
    """Return what Optuna is to keep low."""
    return lambda trial: -scores[trial.number]
