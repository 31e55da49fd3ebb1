"""What all figures share: their look, colours, limits and the winners' marks.

Every method has its own colour and its own marker. Score colours (`viridis`, reversed: dark is
good) mean the same in all figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap

from pipeline.report.colours import COLOURS
from pipeline.report.points import roles_of
from pipeline.report.report import Report
from pipeline.report.summary import METHODS
from pipeline.training.records import TrialRecord

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "svg.hashsalt": "loqua",
    "figure.facecolor": "white",
}
MARKERS = {
    "zero_shot": "X",
    "zero_shot_own": "d",
    "coop": "s",
    "rlp": "^",
    "residual": "v",
    "qcoop": "p",
    "low_rank_quantized": "h",
    "kgcoop": "P",
    "maple": "<",
    "qmaple": ">",
    "compact": "D",
    "champion": "*",
}
SIZES = {"zero_shot": 90, "champion": 220}
SIZE = 70
SCORES = ListedColormap(colormaps["viridis_r"](np.linspace(0.08, 1, 256)), "scores")


def marks(report: Report) -> dict[str, tuple[TrialRecord, str]]:
    """Return the trials to mark: `role: (trial, label)`; roles of one trial share a label.

    They are the winners and the best trials of the papers' methods; of a trial's roles, the last
    in the order of the field lends its colour.
    """
    labels, found = roles_of(report), {}
    for role in [*reversed(METHODS), *(name for name in report.marked if name not in METHODS)]:
        trial = report.marked.get(role)
        if trial and trial.number in labels:
            found[role] = (trial, labels.pop(trial.number))
    return found


def draw_mark(axes: Axes, role: str, at: tuple[float, float]) -> str:
    """Draw a winner's or a method's own mark; return its colour."""
    colour = COLOURS.get(role, "#555555")
    axes.scatter(
        *at,
        s=SIZES.get(role, SIZE),
        marker=MARKERS.get(role, "o"),
        color=colour,
        edgecolors="white",
        linewidths=0.8,
        zorder=4,
    )
    return colour


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a score axis in percent: all scores, but for far outliers below."""
    top, middle = 100 * max(scores), 100 * float(np.median(scores))
    far = middle - 4 * max(top - middle, 1.0)
    bottom = min(100 * score for score in scores if 100 * score >= far)
    room = max(top - bottom, 1.0)
    return bottom - 0.1 * room, top + 0.16 * room


def line_points(
    start: tuple[float, float], end: tuple[float, float], log_x: bool = False
) -> list[tuple[float, float]]:
    """Return points along a line, so that labels keep off it."""
    space = np.geomspace if log_x else np.linspace
    x, y = space(start[0], end[0], 25), np.linspace(start[1], end[1], 25)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def ink_on(colours: Colormap, value: float) -> str:
    """Return black or white, whichever is read better on a colour (relative luminance)."""
    red, green, blue, _ = colours(value)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45 else "#1a1a1a"
