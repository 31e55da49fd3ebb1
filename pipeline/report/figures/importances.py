"""Hyperparameter importances beside what chance gives."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.report.figures.style import STYLE
from pipeline.report.points import importance_points
from pipeline.report.report import Report

CLEAR, UNCLEAR = "#0072b2", "#b5b5b5"


@rc_context(STYLE)
def importances_figure(report: Report) -> Figure:
    """A bar per axis, and on it the mark that shuffled scores reach."""
    rows = importance_points(report)
    figure = Figure(figsize=(7, 1.3 + 0.5 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    shares = [row["importance"] for row in rows]
    chances = [row["chance"] for row in rows]
    colours = [CLEAR if row["importance"] > row["chance"] else UNCLEAR for row in rows]
    axes.barh(places, shares, height=0.55, color=colours, zorder=2)
    axes.scatter(
        chances,
        places,
        marker="|",
        s=420,
        linewidths=2,
        color="#1a1a1a",
        zorder=3,
        label="95 of 100 shufflings stay below",
    )
    axes.set_yticks(places, [row["axis"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * max([*shares, *chances, 1]))
    axes.set_xlabel("share of the importance (%)")
    axes.set_title("Which setting tells the best quarter from the rest")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower right", frameon=False)
    return figure
