"""Turn the sweep's and the test's records into a report: pages, figures, metrics, plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import artifacts
from pipeline.errors import run_stage
from pipeline.evaluate import TaskData
from pipeline.figures import save_figures
from pipeline.findings import with_spread
from pipeline.params import Params, load_params
from pipeline.report import (
    Protocol,
    Report,
    build_report,
    metrics,
    render,
    task_points,
    trial_points,
)
from pipeline.tracking import Tracker

console = Console(highlight=False)


def protocol(params: Params, results: Mapping[str, Any]) -> Protocol:
    """Return what the pages must say about the data that were tested."""
    data = [TaskData(**found) for found in results["data"].values()]
    return Protocol(
        source=params.prepare.source,
        shot_styles=sorted({domain for task in data for domain in task.shot_domains}),
        held_out_styles=sorted({domain for task in data for domain in task.held_out_domains}),
        sweep_tasks=params.sweep.tasks,
        shots=params.sweep.shots,
        shots_available=(min(task.fewest for task in data), max(task.most for task in data)),
        views=params.features.views,
        compact_within=params.evaluate.compact_within,
    )


def save_report(report: Report) -> None:
    """Write the pages, the figures and what DVC compares."""
    artifacts.clear_folder(artifacts.REPORT)
    pictures = save_figures(report, artifacts.FIGURES)
    save_text(artifacts.REPORT_TEXT, render("report.md.j2", report, pictures))
    save_text(artifacts.REPORT_PAGE, render("report.html.j2", report, pictures))
    artifacts.save_json(artifacts.METRICS, metrics(report))
    artifacts.save_json(artifacts.TRIALS_PLOT, trial_points(report))
    artifacts.save_json(artifacts.TASKS_PLOT, task_points(report))


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    artifacts.write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


def result_table(report: Report) -> Table:
    """Return the methods as rows, for the terminal."""
    table = Table(
        title="Test accuracy (%): mean over tasks ± spread over seeds",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("method")
    for name in ("bytes", "params", "base", "new", "HM", "held-out\nbase", "held-out\nnew"):
        table.add_column(name, justify="right", no_wrap=True)
    for m in report.methods.values():
        stats = (m.base, m.new, m.harmonic_mean, m.held_out_base, m.held_out_new)
        cells = (with_spread(stat).replace(" ", "") for stat in stats)  # fits 80 columns
        table.add_row(m.label, f"{m.size_bytes:,}", f"{m.n_parameters:,}", *cells)
    return table


def main() -> None:
    """Run the stage."""
    params = load_params()
    trials, results = (artifacts.load_json(p) for p in (artifacts.TRIALS, artifacts.RESULTS))
    report = build_report(trials, results, protocol(params, results))
    save_report(report)
    console.print(result_table(report))
    console.print(f"what won: {report.headline}")
    console.print(f"report: {artifacts.REPORT_PAGE}")
    tracker = Tracker(params.tracking, artifacts.STATE)
    run = tracker.open_run(report.study, report.study, {})
    tracker.log_artifacts(run, [artifacts.REPORT])
    tracker.close_run(run)


if __name__ == "__main__":
    run_stage(main)
