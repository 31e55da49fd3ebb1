"""Validation score against stored bytes, on a log axis: trials, Pareto front, winners, methods."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.report.colours import OTHER
from pipeline.report.figures.labels import place_labels
from pipeline.report.figures.style import STYLE, draw_mark, line_points, marks, score_limits
from pipeline.report.report import Report
from pipeline.training.records import TrialRecord


@rc_context(STYLE)
def size_figure(report: Report) -> Figure:
    """Validation score against stored bytes: trials, Pareto front, winners, papers' methods."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    front = report.front
    best_on_front = {trial.number for trial in front}
    others = [t for t in report.trials if t.number not in best_on_front]
    sizes = [trial.size_bytes for trial in report.trials]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    axes.scatter(
        [t.size_bytes for t in others],
        [100 * t.score for t in others],
        s=26,
        color=OTHER,
        linewidths=0,
        label=f"other trial ({len(others)})",
    )
    steps = [(float(t.size_bytes), 100 * t.score) for t in front]
    steps.append((axes.get_xlim()[1], steps[-1][1]))
    axes.step(
        *zip(*steps, strict=True),
        where="post",
        color="#333333",
        linewidth=1.3,
        zorder=2,
        label=f"Pareto front ({len(front)})",
    )
    axes.scatter(
        [t.size_bytes for t in front],
        [100 * t.score for t in front],
        s=30,
        zorder=3,
        color="#333333",
        linewidths=0,
    )
    labels = []
    for role, (trial, label) in marks(report).items():
        at = (float(trial.size_bytes), 100 * trial.score)
        text = f"{label}: {at[1]:.1f} %, {trial.size_bytes:,} B"
        labels.append((text, at, draw_mark(axes, role, at)))
    axes.set_ylim(*score_limits([trial.score for trial in report.trials]))
    mark_outliers(axes, report.trials)
    axes.set_title("Score against stored size")
    axes.set_xlabel("stored size of one prompt (bytes, log scale)")
    axes.set_ylabel("validation harmonic mean (%)")
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid()
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.2)
    corners = [(x, y) for (_, y), (x, _) in zip(steps, steps[1:], strict=False)]
    walk = [point for pair in zip(steps, corners, strict=False) for point in pair] + steps[-1:]
    lines = [line_points(a, b, log_x=True) for a, b in zip(walk, walk[1:], strict=False)]
    dots = [(float(t.size_bytes), 100 * t.score) for t in report.trials]
    place_labels(axes, labels, dots + [point for line in lines for point in line])
    return figure


def mark_outliers(axes: Axes, trials: Sequence[TrialRecord]) -> None:
    """Show trials below the axis as arrowheads on its lower edge, so that none is hidden."""
    bottom = axes.get_ylim()[0]
    below = [trial for trial in trials if 100 * trial.score < bottom]
    if below:
        axes.scatter(
            [t.size_bytes for t in below],
            [bottom] * len(below),
            s=40,
            marker="v",
            color=OTHER,
            clip_on=False,
            label=f"{len(below)} below {bottom:.0f} %",
        )
