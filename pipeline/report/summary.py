"""What was measured, in numbers: means and spreads of methods, tasks and settings.

Accuracies are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pipeline.training.metrics import harmonic_mean, mean_and_spread
from pipeline.training.records import TestRow, TrialRecord
from pipeline.training.refit import ZERO_SHOT, ZERO_SHOT_OWN

METHODS = {
    ZERO_SHOT: "zero-shot",
    ZERO_SHOT_OWN: "zero-shot, own words",
    "coop": "CoOp",
    "rlp": "RLP",
    "residual": "residual",
    "qcoop": "QCoOp",
    "low_rank_quantized": "low-rank quantized",
    "kgcoop": "KgCoOp",
    "maple": "MaPLe",
    "qmaple": "QMaPLe",
    "compact": "compact",
    "champion": "champion",
    "coop_per_task": "CoOp, chosen per data set",
    "compact_per_task": "compact, chosen per data set",
    "champion_per_task": "champion, chosen per data set",
}
"""Methods in the order of the tables, and their names for people."""
MEASURES = {"base": "base classes", "new": "new classes", "harmonic_mean": "harmonic mean"}


@dataclass(frozen=True)
class Stat:
    """A quantity, once per seed; zero-shot has no seed and a single value."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds; None for a single value."""
        return mean_and_spread(self.values)[1] if len(self.values) > 1 else None


@dataclass(frozen=True)
class MethodSummary:
    """A method over some tasks; every value is a mean over these tasks, per seed.

    Attributes:
        method: a key of `METHODS`.
        base, new: accuracy in the shot styles.
        harmonic_mean: of the averaged base and the averaged new, the field's definition.
        task_harmonic_mean: mean of the tasks' own harmonic means; never above the other.
        held_out_base, held_out_new: in the held-out styles; None if no task has any.
        size_bytes, n_parameters: of one task's prompt, the largest.
        seconds: of training one task's prompt, mean.
    """

    method: str
    base: Stat
    new: Stat
    harmonic_mean: Stat
    task_harmonic_mean: Stat
    held_out_base: Stat | None
    held_out_new: Stat | None
    size_bytes: int
    n_parameters: int
    seconds: float

    @property
    def label(self) -> str:
        """The method's name for people."""
        return METHODS.get(self.method, self.method)


@dataclass(frozen=True)
class AxisRow:
    """All trials that share one value of a setting: means of validation accuracy."""

    value: str
    n_trials: int
    base: float
    new: float
    score: float
    best: float


@dataclass(frozen=True)
class Panel:
    """Accuracies to draw side by side: a row per task or target, in it a value per method."""

    title: str
    rows: dict[str, dict[str, Stat]]


def task_panels(tasks: Mapping[str, Mapping[str, MethodSummary]]) -> list[Panel]:
    """Return a panel for base, new and harmonic mean, with a row per task."""
    return [
        Panel(
            words,
            {
                task: {name: getattr(method, measure) for name, method in methods.items()}
                for task, methods in tasks.items()
            },
        )
        for measure, words in MEASURES.items()
    ]


def check_rows(rows: Sequence[TestRow]) -> None:
    """Refuse test rows from which no fair mean can be taken.

    Raises:
        ValueError: unless every method has every task with its seeds, once each.
    """
    tasks = {row.task for row in rows}
    for method in dict.fromkeys(row.method for row in rows):
        cells = [(row.task, row.seed) for row in rows if row.method == method]
        wanted = {(task, seed) for task in tasks for _, seed in cells}
        if set(cells) != wanted or len(cells) != len(wanted):
            raise ValueError(
                f"results.json: {method} has {len(cells)} rows; allowed is one for "
                f"each of {len(wanted)} pairs of task and seed"
            )
    if ZERO_SHOT not in {row.method for row in rows}:
        raise ValueError(f"results.json: no rows of {ZERO_SHOT}, with which all is compared")


def summarize_methods(rows: Sequence[TestRow]) -> dict[str, MethodSummary]:
    """Summarize each method over the tasks of `rows`, in the order of `METHODS`."""
    present = {row.method for row in rows}
    order = [*(m for m in METHODS if m in present), *sorted(present - set(METHODS))]
    return {
        method: summarize(method, [row for row in rows if row.method == method]) for method in order
    }


def summarize(method: str, rows: Sequence[TestRow]) -> MethodSummary:
    """Summarize one method: the mean over tasks for each seed, seeds in ascending order."""
    by_seed: dict[int, list[TestRow]] = {}
    for row in sorted(rows, key=lambda row: row.seed or 0):
        by_seed.setdefault(row.seed or 0, []).append(row)
    groups = list(by_seed.values())

    def held_out(name: str) -> Stat | None:
        known = [
            [getattr(r, name) for r in group if getattr(r, name) is not None] for group in groups
        ]
        return Stat(tuple(mean(values) for values in known)) if all(known) else None

    base = Stat(tuple(mean(row.base for row in group) for group in groups))
    new = Stat(tuple(mean(row.new for row in group) for group in groups))
    return MethodSummary(
        method,
        base,
        new,
        Stat(tuple(harmonic_mean(b, n) for b, n in zip(base.values, new.values, strict=True))),
        Stat(tuple(mean(row.harmonic_mean for row in group) for group in groups)),
        held_out("held_out_base"),
        held_out("held_out_new"),
        max(row.size_bytes for row in rows),
        max(row.n_parameters for row in rows),
        mean(row.seconds for row in rows),
    )


def axis_order(value: Any) -> tuple[bool, Any]:
    """Sort key of a setting's values: numbers ascending, then words (`full`)."""
    return isinstance(value, str), value


def axis_table(trials: Sequence[TrialRecord], name: str) -> list[AxisRow]:
    """Average the trials that share a value of the setting `name`; empty if none has it."""
    values = {trial.settings[name] for trial in trials if name in trial.settings}
    table = []
    for value in sorted(values, key=axis_order):
        group = [trial for trial in trials if trial.settings.get(name) == value]
        table.append(
            AxisRow(
                str(value),
                len(group),
                mean(t.base for t in group),
                mean(t.new for t in group),
                mean(t.score for t in group),
                max(t.score for t in group),
            )
        )
    return table
