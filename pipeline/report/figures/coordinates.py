"""Parallel coordinates: the sweep's trials over their settings and their score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from pipeline.report.figures.labels import HALO
from pipeline.report.figures.style import SCORES, STYLE, score_limits
from pipeline.report.report import Report
from pipeline.report.summary import axis_order
from pipeline.training.records import TrialRecord

AXES = {
    "prompt.rank": "rank",
    "prompt.bits": "bits",
    "prompt.n_ctx": "context\ntokens",
    "train.lr": "learning rate\n(log scale)",
}


@rc_context(STYLE)
def sweep_figure(report: Report) -> Figure:
    """Parallel coordinates: one line per trial over its settings and its score."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    trials = sorted(report.trials, key=lambda trial: trial.score)
    names = [name for name in AXES if all(name in trial.settings for trial in trials)]
    norm = Normalize(*score_limits([trial.score for trial in trials]), clip=True)
    columns = [column(axes, x, name, trials) for x, name in enumerate(names)]
    columns.append([float(norm(100 * trial.score)) for trial in trials])
    champion = report.winners["champion"].number
    for i, trial in enumerate(trials):
        best = trial.number == champion
        line = smooth([values[i] for values in columns])
        colour = SCORES(norm(100 * trial.score))
        axes.add_patch(
            PathPatch(
                line,
                fill=False,
                edgecolor=colour,
                zorder=4 if best else 2,
                linewidth=4 if best else 1.4,
                alpha=1 if best else 0.85,
            )
        )
    last = len(names)
    axes.text(
        last - 0.03,
        columns[-1][[t.number for t in trials].index(champion)] + 0.025,
        "champion",
        ha="right",
        fontweight="bold",
        path_effects=HALO,
        zorder=7,
    )
    score_axis(axes, last, norm)
    for x in range(last):
        axes.plot([x, x], [-0.03, 1.03], color="#888888", linewidth=0.9, zorder=1)
    axes.set(xlim=(-0.25, last + 0.3), ylim=(-0.1, 1.1))
    axes.set_xticks(range(last + 1), [*(AXES[name] for name in names), "validation\nscore (%)"])
    axes.tick_params(axis="x", length=0, labelsize=10, labelcolor="#333333")
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"The sweep's {len(trials)} trials: which settings lead to which score")
    return figure


def column(axes: Axes, x: int, name: str, trials: Sequence[TrialRecord]) -> list[float]:
    """Return the heights in [0, 1] of the trials on one axis, and write the axis's values."""
    values = [trial.settings[name] for trial in trials]
    if all(isinstance(value, float) for value in values) and min(values) > 0:
        low, high = math.log(min(values)), math.log(max(values))
        room = (high - low) or 1.0
        nice = [m * 10.0**e for e in range(-8, 4) for m in (1, 2, 5)]
        ticks = {
            (math.log(v) - low) / room: f"{v:g}"
            for v in nice
            if low - 0.02 * room <= math.log(v) <= high + 0.02 * room
        }
        heights = [(math.log(value) - low) / room for value in values]
    else:
        levels = sorted(set(values), key=axis_order)
        place = {v: i / (len(levels) - 1) if len(levels) > 1 else 0.5 for i, v in enumerate(levels)}
        ticks = {place[value]: str(value) for value in levels}
        heights = []
        for i, value in enumerate(values):  # trials come by score: within a value, too
            group = [j for j, other in enumerate(values) if other == value]
            shift = group.index(i) - (len(group) - 1) / 2
            heights.append(place[value] + shift * min(0.012, 0.14 / len(group)))
    for height, text in ticks.items():
        axes.text(
            x - 0.035,
            height,
            text,
            ha="right",
            va="center",
            fontsize=10,
            color="#222222",
            zorder=6,
            path_effects=HALO,
        )
    return heights


def smooth(heights: Sequence[float]) -> Curve:
    """Return a curve through the axes at 0, 1, 2, ... that crosses each of them level."""
    vertices, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for x, (start, end) in enumerate(zip(heights[:-1], heights[1:], strict=True)):
        vertices += [(x + 0.45, start), (x + 0.55, end), (x + 1.0, end)]
        codes += [Curve.CURVE4] * 3
    return Curve(vertices, codes)


def score_axis(axes: Axes, x: int, norm: Normalize) -> None:
    """Draw the last axis as the colour scale itself."""
    ramp = np.linspace(0, 1, 256)[:, None]
    axes.imshow(
        ramp, extent=(x, x + 0.06, 0, 1), origin="lower", cmap=SCORES, aspect="auto", zorder=3
    )
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 10)
    for value in np.arange(math.ceil(low / step) * step, high, step):
        axes.text(x + 0.09, float(norm(value)), f"{value:g}", ha="left", va="center", fontsize=10)
