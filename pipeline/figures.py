"""The report's figures. Only this module and `labels` import matplotlib.

Colours are Okabe and Ito's, told apart by colour-blind eyes, and every method has its own marker
too. Score colours (`viridis`, reversed: dark is good) mean the same in all figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from pipeline.artifacts import write_atomic
from pipeline.labels import HALO, canvas, place_labels
from pipeline.report import Picture, Report
from pipeline.selection import TrialRecord, pareto_front
from pipeline.summary import METHODS, axis_order

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
COLOURS = {"zero_shot": "#4d4d4d", "coop": "#009e73", "compact": "#0072b2", "champion": "#d55e00"}
MARKERS = {"zero_shot": "X", "coop": "s", "compact": "D", "champion": "*"}
SIZES = {"zero_shot": 90, "coop": 70, "compact": 70, "champion": 220}
SCORES = ListedColormap(colormaps["viridis_r"](np.linspace(0.08, 1, 256)), "scores")
AXES = {
    "prompt.rank": "rank",
    "prompt.bits": "bits",
    "prompt.n_ctx": "context\ntokens",
    "train.lr": "learning rate\n(log scale)",
}


def save_figures(report: Report, folder: Path) -> list[Picture]:
    """Draw all figures, save each as SVG and PNG, and return them for the pages.

    The same report gives the same SVG, byte for byte.
    """
    drawings: dict[str, tuple[Callable[[Report], Figure], str]] = {
        "size": (
            size_figure,
            "Every point is a trial of the sweep, scored on validation images. "
            "The step line is the best score that a given number of bytes can buy.",
        ),
        "test": (
            accuracy_figure,
            "Mean over all tasks on test images, in the styles of the shots. "
            "Bars show one standard deviation over seeds; zero-shot has no seeds. Along a "
            "dotted line the harmonic mean (%) is constant; beside each name stands "
            "its own. Up and to the right is better.",
        ),
        "sweep": (
            sweep_figure,
            "Every line is a trial: its settings and, at the right, its "
            "validation score. Lines are set slightly apart where values coincide. Drawn "
            "thick: the champion.",
        ),
        "rank-bits": (
            rank_bits_figure,
            "Best validation score of each combination and, below "
            "it, its number of trials: a cell with more trials had more chances.",
        ),
    }
    pictures = []
    for name, (draw, caption) in drawings.items():
        with rc_context(STYLE):
            figure = draw(report)
            FigureCanvasAgg(figure)
            for suffix, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
                save = partial(figure.savefig, format=suffix, **options)
                write_atomic(folder / f"{name}.{suffix}", save)
        title = " ".join(figure.axes[0].get_title(loc="left").split())
        svg = (folder / f"{name}.svg").read_bytes()
        pictures.append(Picture(name, title, caption, svg))
    return pictures


def roles(report: Report) -> dict[str, tuple[TrialRecord, str]]:
    """Return the winners to mark: `role: (trial, label)`; roles of one trial share a label."""
    found: dict[int, list[str]] = {}
    for role in ("champion", "compact", "coop"):
        if role in report.winners:
            found.setdefault(report.winners[role].number, []).append(role)
    return {
        names[0]: (report.winners[names[0]], " = ".join(METHODS[name] for name in names))
        for names in found.values()
    }


@rc_context(STYLE)
def size_figure(report: Report) -> Figure:
    """Validation score against stored bytes: trials, Pareto front, winners."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    front = pareto_front(report.trials)
    best_on_front = {trial.number for trial in front}
    others = [t for t in report.trials if t.number not in best_on_front]
    sizes = [trial.size_bytes for trial in report.trials]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    axes.scatter(
        [t.size_bytes for t in others],
        [100 * t.score for t in others],
        s=26,
        color="#b5b5b5",
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
    for role, (trial, label) in roles(report).items():
        at = (float(trial.size_bytes), 100 * trial.score)
        axes.scatter(
            *at,
            s=SIZES[role],
            marker=MARKERS[role],
            color=COLOURS[role],
            edgecolors="white",
            linewidths=0.8,
            zorder=4,
        )
        text = f"{label}: {at[1]:.1f} %, {trial.size_bytes:,} B"
        labels.append((text, at, COLOURS[role]))
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


def line_points(
    start: tuple[float, float], end: tuple[float, float], log_x: bool = False
) -> list[tuple[float, float]]:
    """Return points along a line, so that labels keep off it."""
    space = np.geomspace if log_x else np.linspace
    x, y = space(start[0], end[0], 25), np.linspace(start[1], end[1], 25)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a score axis in percent: all scores, but for far outliers below."""
    top, middle = 100 * max(scores), 100 * float(np.median(scores))
    far = middle - 4 * max(top - middle, 1.0)
    bottom = min(100 * score for score in scores if 100 * score >= far)
    room = max(top - bottom, 1.0)
    return bottom - 0.1 * room, top + 0.16 * room


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
            color="#b5b5b5",
            clip_on=False,
            label=f"{len(below)} below {bottom:.0f} %",
        )


@rc_context(STYLE)
def accuracy_figure(report: Report) -> Figure:
    """Base against new accuracy on test images, with lines of equal harmonic mean."""
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    axes = figure.add_subplot()
    points, labels = [], []
    for name, method in report.methods.items():
        base, new = 100 * method.base.mean, 100 * method.new.mean
        spreads = [100 * (stat.spread or 0) for stat in (method.base, method.new)]
        colour = COLOURS.get(name, "#555555")
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
        axes.scatter(
            base,
            new,
            s=SIZES.get(name, 70),
            marker=MARKERS.get(name, "o"),
            color=colour,
            edgecolors="white",
            linewidths=0.8,
            zorder=4,
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


def ink_on(colours: Colormap, value: float) -> str:
    """Return black or white, whichever is read better on a colour (relative luminance)."""
    red, green, blue, _ = colours(value)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45 else "#1a1a1a"
