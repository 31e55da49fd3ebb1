"""Flat rows for those who draw on their own: DVC's plots and the page's live charts.

Accuracies are in percent.
"""

from __future__ import annotations

from typing import Any

from pipeline.report.findings.method import describe
from pipeline.report.report import Report
from pipeline.report.summary import METHODS
from pipeline.training.records import TrialRecord

Row = dict[str, Any]
MOST_CURVES = 200
"""Trials whose curves are drawn: those with a role, then the best."""


def roles_of(report: Report) -> dict[int, str]:
    """Return what a trial is called, by number: all its roles, the champion first."""
    found: dict[int, list[str]] = {}
    for role in [*reversed(METHODS), *(name for name in report.marked if name not in METHODS)]:
        if role in report.marked:
            number = report.marked[role].number
            found.setdefault(number, []).append(METHODS.get(role, role))
    return {number: " = ".join(names) for number, names in found.items()}


def trial_points(report: Report) -> list[Row]:
    """Return a row per trial that ran to its end."""
    roles, front = roles_of(report), {trial.number for trial in report.front}
    return [
        {
            "trial": t.number,
            "role": roles.get(t.number, "trial"),
            "front": t.number in front,
            "what": describe(t.settings),
            "bytes": t.size_bytes,
            "score": round(100 * t.score, 2),
            "base": round(100 * t.base, 2),
            "new": round(100 * t.new, 2),
        }
        | {key.rpartition(".")[2]: value for key, value in t.settings.items()}
        for t in report.trials
    ]


def accuracy_points(report: Report) -> list[Row]:
    """Return a row per panel, task and method: mean and spread over seeds."""
    return [
        {
            "measure": panel.title,
            "task": task,
            "method": METHODS.get(name, name),
            "accuracy": round(100 * stat.mean, 2),
            "spread": round(100 * (stat.spread or 0), 2),
            "low": round(100 * (stat.mean - (stat.spread or 0)), 2),
            "high": round(100 * (stat.mean + (stat.spread or 0)), 2),
        }
        for panel in report.panels
        for task, methods in panel.rows.items()
        for name, stat in methods.items()
    ]


def curved(report: Report) -> list[TrialRecord]:
    """Return the trials whose curves are drawn, also those that were stopped early."""
    roles = roles_of(report)
    trials = [*report.trials, *report.pruned]
    order = sorted(trials, key=lambda t: (t.number not in roles, -t.score, t.number))
    return sorted(order[:MOST_CURVES], key=lambda t: t.number)


def curve_points(report: Report) -> list[Row]:
    """Return a row per trial and round."""
    roles, stopped = roles_of(report), {trial.number for trial in report.pruned}
    return [
        {
            "trial": t.number,
            "role": roles.get(t.number, "stopped early" if t.number in stopped else "trial"),
            "what": describe(t.settings),
            "round": place,
            "loss": round(measured["loss"], 4),
        }
        | {name: round(100 * measured[name], 2) for name in ("score", "base", "new")}
        for t in curved(report)
        for place, measured in enumerate(t.history, start=1)
    ]


def rank_bits_points(report: Report) -> list[Row]:
    """Return a row per rank and number of bits that were tried: the best score, and how often."""
    cells: dict[tuple[str, str], list[float]] = {}
    for t in report.trials:
        rank, bits = (str(t.settings.get(f"prompt.{name}", "fixed")) for name in ("rank", "bits"))
        cells.setdefault((rank, bits), []).append(round(100 * t.score, 2))
    return [
        {"rank": rank, "bits": bits, "score": max(scores), "trials": len(scores)}
        for (rank, bits), scores in sorted(cells.items())
    ]


def importance_points(report: Report) -> list[Row]:
    """Return a row per axis: its share of the importance, and what chance gives, in percent."""
    return [
        {
            "axis": one.axis,
            "importance": round(100 * one.share, 1),
            "chance": round(100 * one.chance, 1),
        }
        for one in report.extras.importances
    ]
