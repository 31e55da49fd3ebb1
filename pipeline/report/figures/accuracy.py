"""Base against new accuracy on test images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from pipeline.report.figures.labels import canvas, place_labels
from pipeline.report.figures.style import STYLE, draw_mark, line_points
from pipeline.report.report import Report


@rc_context(STYLE)
def accuracy_figure(report: Report) -> Figure:
    """Base against new accuracy on test images, with lines of equal harmonic mean."""
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    axes = figure.add_subplot()
    points, labels = [], []
    for name, method in report.methods.items():
        base, new = 100 * method.base.mean, 100 * method.new.mean
        spreads = [100 * (stat.spread or 0) for stat in (method.base, method.new)]
        colour = draw_mark(axes, name, (base, new))
        if method.base.spread is not None:
            axes.errorbar(
                base,
                new,
                yerr=spreads[1],
                xerr=spreads[0],
                color=colour,
                linewidth=1.2,
                capsize=3,
                zorder=3,
            )
        text = f"{method.label}: {100 * method.harmonic_mean.mean:.1f}"
        labels.append((text, (base, new), colour))
        points += line_points((base - spreads[0], new), (base + spreads[0], new))
        points += line_points((base, new - spreads[1]), (base, new + spreads[1]))
    for bounds, values in (
        (axes.set_xlim, [p[0] for p in points]),
        (axes.set_ylim, [p[1] for p in points]),
    ):
        room = max(0.25 * (max(values) - min(values)), 1.0)
        bounds(min(values) - room, max(values) + room)
    axes.set_title("Test accuracy: base against new classes")
    axes.set_xlabel("accuracy on base classes (%)")
    axes.set_ylabel("accuracy on new classes (%)")
    boxes = draw_contours(axes, points)
    place_labels(axes, labels, points, boxes)
    return figure


def draw_contours(axes: Axes, points: Sequence[tuple[float, float]]) -> list[Bbox]:
    """Draw lines of equal harmonic mean, each labelled far from the points; return the labels."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    low, high = (2 * b * n / (b + n) for b, n in ((left, max(bottom, 1e-9)), (right, top)))
    step = next(s for s in (0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 9)
    renderer = canvas(axes)
    boxes = []
    for level in np.arange(math.ceil(low / step) * step, high, step):
        base = np.linspace(max(left, level / 2 + 1e-6), right, 200)
        new = level * base / (2 * base - level)
        seen = (new >= bottom) & (new <= top)
        axes.plot(base[seen], new[seen], color="#bbbbbb", linewidth=0.9, linestyle=":", zorder=1)
        line = axes.transAxes.inverted().transform(
            axes.transData.transform(np.column_stack([base[seen], new[seen]]))
        )
        taken = axes.transAxes.inverted().transform(axes.transData.transform(points))
        inside = line[(line > 0.04).all(axis=1) & (line < 0.96).all(axis=1)]
        if not len(inside):
            continue
        distance = np.linalg.norm(inside[:, None] - taken[None], axis=2).min(axis=1)
        x, y = inside[distance.argmax()].tolist()
        text = axes.text(
            x,
            y,
            f"{level:g}",
            transform=axes.transAxes,
            fontsize=8,
            color="#888888",
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            zorder=1.5,
        )
        boxes.append(text.get_window_extent(renderer))
    return boxes
