"""The report's figures. Only this package imports matplotlib; a module per figure.

`style` has what they share, `labels` finds room for their texts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.core.files import write_atomic
from pipeline.report.figures.accuracy import accuracy_figure
from pipeline.report.figures.coordinates import sweep_figure
from pipeline.report.figures.curves import curves_figure
from pipeline.report.figures.importances import importances_figure
from pipeline.report.figures.panels import panels_figure
from pipeline.report.figures.rank_bits import rank_bits_figure
from pipeline.report.figures.size import size_figure
from pipeline.report.figures.style import STYLE
from pipeline.report.pages import Picture
from pipeline.report.report import Report

Draw = Callable[[Report], Figure]
FIGURES: dict[str, tuple[Draw, str]] = {
    "size": (
        size_figure,
        "Every point is a trial of the sweep, scored on validation images. The step line is the "
        "best score that a given number of bytes can buy: the Pareto front. Marked: the winners, "
        "and the best trial of every method of the papers that the sweep came across.",
    ),
    "test": (
        accuracy_figure,
        "Mean over all tasks on test images, in the styles of the shots. Bars show one standard "
        "deviation over seeds; zero-shot has no seeds. Along a dotted line the harmonic mean (%) "
        "is constant; beside each name stands its own. Up and to the right is better.",
    ),
    "tasks": (
        panels_figure,
        "Test images, in the styles of the shots. Bars show one standard deviation over seeds; "
        "zero-shot has no seeds.",
    ),
    "sweep": (
        sweep_figure,
        "Every line is a trial: its settings and, at the right, its validation score. Lines are "
        "set slightly apart where values coincide. Drawn thick: the champion.",
    ),
    "rank-bits": (
        rank_bits_figure,
        "Best validation score of each combination and, below it, its number of trials: a cell "
        "with more trials had more chances.",
    ),
    "importances": (
        importances_figure,
        "PED-ANOVA (Optuna's evaluator, on the sweep's records). A bar that does not pass its "
        "mark is what scores without any meaning give, too; such bars are grey.",
    ),
    "curves": (
        curves_figure,
        "Validation images of base and pseudo-new classes, mean over tasks and seeds, measured on "
        "the prompt as it is stored after each round.",
    ),
}
"""Name: what draws it, and its caption."""


def drawable(report: Report) -> list[str]:
    """Return the names of the figures that the report has the numbers for."""
    lacking = {
        "test": not report.methods,
        "tasks": not report.panels,
        "importances": not report.extras.importances,
        "curves": all(len(trial.history) < 2 for trial in report.trials),
    }
    return [name for name in FIGURES if not lacking.get(name, False)]


def save_figures(report: Report, folder: Path) -> list[Picture]:
    """Draw all figures, save each as SVG and PNG, and return them for the pages.

    The same report gives the same SVG, byte for byte.
    """
    pictures = []
    for name in drawable(report):
        draw, caption = FIGURES[name]
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
