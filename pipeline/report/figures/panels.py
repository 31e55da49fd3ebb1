"""Accuracy of every method on every task, side by side: base, new and harmonic mean."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.colours import COLOURS
from pipeline.report.figures.style import MARKERS, SIZE, SIZES, STYLE
from pipeline.report.report import Report
from pipeline.report.summary import METHODS, Panel

BAND = 0.72
"""The part of a row that its methods share."""


@rc_context(STYLE)
def panels_figure(report: Report) -> Figure:
    """One column per measure, one row per task, one mark with its spread per method."""
    names = list(dict.fromkeys(n for p in report.panels for row in p.rows.values() for n in row))
    rows = list(report.panels[0].rows)
    height = 1.3 + len(rows) * max(0.45, 0.13 * len(names))
    figure = Figure(figsize=(9, height), layout="constrained")
    columns = figure.subplots(1, len(report.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(columns, report.panels, strict=True):
        draw_panel(axes, panel, names)
    columns[0].set_yticks(range(len(rows)), rows)
    columns[0].set_ylim(len(rows) - 0.5, -0.5)
    columns[0].set_title("Test accuracy of every method", loc="left", pad=30)
    handles, labels = columns[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(names), 5),
        frameon=False,
    )
    return figure


def draw_panel(axes: Axes, panel: Panel, names: list[str]) -> None:
    """Draw one measure: rows shaded in turn, the methods of a row below each other."""
    step = BAND / max(len(names), 1)
    for y in range(0, len(panel.rows), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f4f4f2", zorder=0)
    for place, name in enumerate(names):
        found = [(y, row[name]) for y, row in enumerate(panel.rows.values()) if name in row]
        shift = (place - (len(names) - 1) / 2) * step
        axes.errorbar(
            [100 * stat.mean for _, stat in found],
            [y + shift for y, _ in found],
            xerr=[100 * (stat.spread or 0) for _, stat in found],
            linestyle="none",
            marker=MARKERS.get(name, "o"),
            markersize=(SIZES.get(name, SIZE) * 0.6) ** 0.5,
            color=COLOURS.get(name, "#555555"),
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1.2,
            capsize=2,
            label=METHODS.get(name, name),
            zorder=3,
        )
    axes.text(0, 1.02, panel.title, transform=axes.transAxes, fontsize=10, color="#333333")
    axes.set_xlabel("accuracy (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
