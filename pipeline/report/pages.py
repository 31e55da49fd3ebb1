"""The report's files: HTML and Markdown pages, charts, tables, and what DVC compares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable

from pipeline.core import paths
from pipeline.core.files import save_json, write_atomic
from pipeline.report import tables
from pipeline.report.charts.style import Chart, script
from pipeline.report.charts.sweep import (
    coordinates_chart,
    curves_chart,
    importances_chart,
    rank_bits_chart,
    size_chart,
)
from pipeline.report.charts.test import base_new_chart, gain_chart, tasks_chart
from pipeline.report.findings.sweep import (
    axis_sentence,
    curve_sentence,
    ended_sentence,
    importance_sentence,
    searched,
    selection_sentences,
)
from pipeline.report.findings.verdict import verdict
from pipeline.report.methods import METHODS
from pipeline.report.outcome import BASE_TO_NEW
from pipeline.report.report import Report
from pipeline.report.tables import Table
from pipeline.report.words import listed

PAGES = ("report.html.j2", "report.md.j2")
MOST_ROWS = 50
"""Of tables of failed and stopped trials."""


def charts(report: Report) -> dict[str, Chart]:
    """Return the charts that the report has the numbers for, by name."""
    outcome, rounds = report.outcome, max(len(trial.history) for trial in report.trials)
    made = [size_chart(report), rank_bits_chart(report), coordinates_chart(report)]
    if outcome.zero_shot and outcome.tuned:
        made.append(gain_chart(outcome))
    if outcome.protocol == BASE_TO_NEW:
        made.append(base_new_chart(outcome))
    made.append(tasks_chart(outcome))
    if report.importances:
        made.append(importances_chart(report))
    if rounds > 1:
        made.append(curves_chart(report))
    return {chart.name: chart for chart in made}


def contents(report: Report) -> dict[str, Any]:
    """Return what the templates show."""
    swept, winners, settings = report.swept, report.winners, report.settings
    trials, pruned, failed = swept.trials, swept.pruned, swept.failed
    axes = {name: tables.axis_means(trials, f"prompt.{name}") for name in ("rank", "bits")}
    known = {name: means for name, means in axes.items() if len(means)}
    return {
        "report": report,
        "verdict": verdict(report.outcome),
        "charts": charts(report),
        "results": tables.result_tables(report.outcome, settings.is_published_benchmark),
        "comparisons": tables.comparison_table(report.outcome),
        "winners": tables.winners_table(winners),
        "front": tables.front_table(report.front),
        "failed": tables.failed_table(failed[:MOST_ROWS]) if failed else None,
        "stopped": tables.stopped_table(pruned[:MOST_ROWS]) if pruned else None,
        "axes": [tables.axis_table(name, means) for name, means in known.items()],
        "origins": tables.origins_table([*trials, *pruned]),
        "searched": searched(settings.sweep, settings.train, settings.resolver.method),
        "sweep_findings": [
            ended_sentence(trials, pruned, failed),
            *selection_sentences(trials, winners, settings.compact_within),
            curve_sentence(winners["champion"]),
            importance_sentence(report.importances, len(trials)),
            *(axis_sentence(name, means) for name, means in known.items()),
        ],
        "looks": {look.label: look for look in METHODS.values()},
    }


def render(template: str, shown: Mapping[str, Any], live: bool = True) -> str:
    """Fill `report.md.j2` or `report.html.j2`, which loads nothing from elsewhere.

    Args:
        template: one of `PAGES`.
        shown: what `contents` returns.
        live: whether charts of the HTML page are drawn anew by JavaScript, and say what a mark is
            to a reader who points at it. Pictures are there in any case.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template.endswith(".html.j2"),
    )
    environment.filters["listed"] = listed
    specs = {name: chart.spec for name, chart in shown["charts"].items()}
    return environment.get_template(template).render(
        **shown, specs=specs, script=script() if live else ""
    )


def save_report(report: Report) -> dict[str, Any]:
    """Write pages, charts, tables, metrics and the rows that DVC plots; return the contents."""
    shown = contents(report)
    for path, template in zip((paths.REPORT_PAGE, paths.REPORT_TEXT), PAGES, strict=True):
        save_text(path, render(template, shown))
    for chart in shown["charts"].values():
        save_text(paths.FIGURES / f"{chart.name}.svg", chart.svg)
        write_atomic(paths.FIGURES / f"{chart.name}.png", partial(Path.write_bytes, data=chart.png))
        save_json(paths.PLOTS / f"{chart.name}.json", chart.rows)
    files = {"measurements.csv": tables.measurements_csv(report.results.measurements)}
    for table in shown["results"]:
        files |= table.files
    for name, text in files.items():
        save_text(paths.TABLES / name, text)
    save_json(paths.METRICS, report.metrics)
    return shown


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


def for_terminal(table: Table) -> TerminalTable:
    """Return a table for the terminal, without what does not fit into 80 columns."""
    frame = table.frame.drop(columns=["mean of the HMs", "seconds"], errors="ignore")
    shown = TerminalTable(title=table.title, box=SIMPLE_HEAD, collapse_padding=True)
    for head in frame:
        shown.add_column(str(head), justify="left" if head == "method" else "right")
    for row in frame.itertuples(index=False):
        shown.add_row(*(cell.replace(" ± ", "±") for cell in row))
    return shown
