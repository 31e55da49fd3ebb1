"""Means and spreads of test accuracies: the one definition behind tables, charts and sentences.

A mean is taken over tasks, for every seed. Its spread is the sample standard deviation of these
means over seeds; zero-shot has no seed, so it has no spread. Accuracies are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from math import sqrt
from typing import NamedTuple

import pandas as pd

from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import Measurement

NO_SEED = 0
"""Stands for the seed of zero-shot."""


def tidy(found: Iterable[Measurement]) -> pd.DataFrame:
    """Return one row per measurement, a column per attribute."""
    frame = pd.DataFrame(map(asdict, found), columns=[field.name for field in fields(Measurement)])
    return frame.assign(seed=frame["seed"].fillna(NO_SEED).astype(int))


def base_and_new(found: pd.DataFrame) -> pd.DataFrame:
    """Return measurements of base and new classes side by side.

    Returns:
        Rows by `method`, `source`, `seed`; columns `base`, `new`, and `held_out_base`,
        `held_out_new` where a task has held-out domains.

    Raises:
        ValueError: unless every method was measured once on every task with each of its seeds.
    """
    side = found["side"].where(found["domain"] == "shots", "held_out_" + found["side"])
    keys = ["method", "source", "seed"]
    cells = found.assign(side=side).groupby([*keys, "side"], sort=False)["accuracy"]
    rows = cells.first().unstack(sort=False)
    n_tasks = found["source"].nunique()
    for method, own in rows.groupby(level="method", sort=False):
        n_rows, n_seeds = len(own), own.index.unique("seed").size
        whole = own[["base", "new"]].notna().all(axis=None)
        if n_rows != n_tasks * n_seeds or not whole or cells.size()[[method]].max() > 1:
            raise ValueError(
                f"results.json: {method} has {n_rows} rows; expected base and new accuracy once "
                f"for each of {n_tasks} tasks and {n_seeds} seeds"
            )
    return rows


def over_tasks(rows: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Return the mean over tasks, for every seed.

    Args:
        rows: a column per quantity; indexed by `seed` and by what `by` names, among others.
        by: what means are not taken over.

    Returns:
        Rows by `by` and `seed`. Beside `base` and `new` are `harmonic_mean`, that of the averaged
        base and the averaged new accuracy, as the field reports it, and `task_harmonic_mean`,
        the mean of the tasks' own, which is never higher.
    """
    keys = [*by, "seed"]
    means = rows.groupby(level=keys, sort=False).mean()
    if {"base", "new"} <= set(rows):
        own = rows["base"].combine(rows["new"], harmonic_mean)
        means["harmonic_mean"] = means["base"].combine(means["new"], harmonic_mean)
        means["task_harmonic_mean"] = own.groupby(level=keys, sort=False).mean()
    return means


class Difference(NamedTuple):
    """How far one method is above another.

    Attributes:
        mean: over seeds.
        noise: twice the standard error of the mean; None with a single seed.
        ahead: seeds at which the first is higher.
        n_seeds: all of its seeds.
    """

    mean: float
    noise: float | None
    ahead: int
    n_seeds: int

    @property
    def is_noise(self) -> bool:
        """Whether the difference is no larger than its noise."""
        return self.noise is not None and abs(self.mean) <= self.noise


def difference(first: pd.Series[float], second: pd.Series[float]) -> Difference:
    """Compare one value per seed; values of equal seeds are paired.

    Where the seeds differ, as with zero-shot, the first is compared with the mean of the second.
    """
    paired = set(first.index) == set(second.index)
    gaps = first - (second if paired else second.mean())
    noise = 2 * gaps.std() / sqrt(len(gaps)) if len(gaps) > 1 else None
    return Difference(gaps.mean(), noise, int((gaps > 0).sum()), len(gaps))
