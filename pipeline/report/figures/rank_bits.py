"""The best score of each rank and number of bits."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.report.figures.style import SCORES, STYLE, ink_on, score_limits
from pipeline.report.report import Report
from pipeline.report.summary import axis_order


@rc_context(STYLE)
def rank_bits_figure(report: Report) -> Figure:
    """Best validation score of each rank and number of bits."""
    found: dict[tuple[str, str], list[float]] = {}
    for t in report.trials:
        key = tuple(str(t.settings.get(f"prompt.{name}", "fixed")) for name in ("rank", "bits"))
        found.setdefault((key[0], key[1]), []).append(100 * t.score)
    ranks, bits = (sorted({key[i] for key in found}, key=numeric) for i in (0, 1))
    best_RB = np.array([[max(found.get((r, b), [math.nan])) for b in bits] for r in ranks])
    figure = Figure(
        figsize=(1.9 + 1.15 * max(len(bits), 4), 1.5 + 0.8 * len(ranks)), layout="constrained"
    )
    axes = figure.add_subplot()
    norm = Normalize(*score_limits([trial.score for trial in report.trials]), clip=True)
    axes.imshow(np.ma.masked_invalid(best_RB), cmap=SCORES, norm=norm, aspect="auto")
    for (row, col), value in np.ndenumerate(best_RB):
        scores = found.get((ranks[row], bits[col]))
        if not scores:
            axes.text(col, row, "not tried", ha="center", va="center", color="#888888", fontsize=9)
            continue
        ink = ink_on(SCORES, float(norm(value)))
        bold = value == np.nanmax(best_RB)
        axes.text(
            col,
            row - 0.1,
            f"{value:.1f}",
            ha="center",
            va="center",
            color=ink,
            fontsize=12,
            fontweight="bold" if bold else "normal",
        )
        axes.text(
            col,
            row + 0.26,
            f"{len(scores)} trial{'s' if len(scores) > 1 else ''}",
            ha="center",
            va="center",
            color=ink,
            fontsize=8,
        )
    axes.set_xticks(range(len(bits)), bits)
    axes.set_yticks(range(len(ranks)), ranks)
    axes.set_xticks(np.arange(len(bits) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(ranks) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("bits per stored number (16: not quantized)")
    axes.set_ylabel("rank of the prompt")
    axes.set_title("Best score (%) by rank and bits")
    return figure


def numeric(word: str) -> tuple[bool, float | str]:
    """Sort key of written values: numbers ascending, then words."""
    return axis_order(float(word) if word.replace(".", "", 1).isdigit() else word)
