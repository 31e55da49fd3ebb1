"""Learning curves: what every trial measured after each of its rounds."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.colours import COLOURS, OTHER
from pipeline.report.figures.style import STYLE, marks
from pipeline.report.points import curved
from pipeline.report.report import Report
from pipeline.training.records import TrialRecord

MEASURES = {"score": "score: HM (%)", "base": "base (%)", "new": "new (%)", "loss": "training loss"}


@rc_context(STYLE)
def curves_figure(report: Report) -> Figure:
    """One small figure per measure; marked trials in colour, stopped ones end in a cross."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True).flatten()
    for axes, (name, words) in zip(grid, MEASURES.items(), strict=True):
        draw_curves(axes, report, name)
        axes.set_ylabel(words)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    for axes in grid[2:]:
        axes.set_xlabel("round")
    grid[0].set_title("Learning curves on validation images")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_curves(axes: Axes, report: Report, name: str) -> None:
    """Draw one measure of all trials, the marked ones above the others."""
    marked = {trial.number: (role, label) for role, (trial, label) in marks(report).items()}
    stopped = {trial.number for trial in report.pruned}
    named = set()
    for trial in curved(report):
        role, label = marked.get(trial.number, ("", ""))
        kind = label or ("stopped early" if trial.number in stopped else "other trial")
        axes.plot(
            *curve(trial, name),
            color=COLOURS.get(role, "#555555") if role else OTHER,
            linewidth=2.4 if role else 0.9,
            linestyle=":" if trial.number in stopped else "-",
            marker="x" if trial.number in stopped else None,
            markevery=[-1],
            zorder=3 if role else 2,
            label=None if kind in named else kind,
        )
        named.add(kind)


def curve(trial: TrialRecord, name: str) -> tuple[list[int], list[float]]:
    """Return rounds and values of a measure; accuracies in percent."""
    factor = 1 if name == "loss" else 100
    values = [factor * measured[name] for measured in trial.history]
    return list(range(1, len(values) + 1)), values
