"""Turn the sweep's and the test's records into a report: pages, figures, metrics, plots."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import artifacts
from pipeline.errors import run_stage
from pipeline.evaluate import Measurement, TaskData
from pipeline.figures import save_figures
from pipeline.findings import with_spread
from pipeline.params import Params, load_params
from pipeline.report import (
    Protocol,
    Report,
    build_report,
    metrics,
    render,
    render_tables,
    task_points,
    trial_points,
)
from pipeline.tables import (
    ResultTable,
    is_published_benchmark,
    methods_of,
    protocol_tables,
    published_table,
    table_files,
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
    pictures = save_figures(report, artifacts.FIGURES)
    save_text(artifacts.REPORT_TEXT, render("report.md.j2", report, pictures))
    save_text(artifacts.REPORT_PAGE, render("report.html.j2", report, pictures))
    artifacts.save_json(artifacts.METRICS, metrics(report))
    artifacts.save_json(artifacts.TRIALS_PLOT, trial_points(report))
    artifacts.save_json(artifacts.TASKS_PLOT, task_points(report))


def save_pages(
    trials: dict[str, Any],
    results: dict[str, Any],
    tables: list[ResultTable],
    found: list[Measurement],
) -> None:
    """Write the pages of a protocol without base and new classes, and what DVC compares."""
    save_text(artifacts.REPORT_TEXT, render_tables("tables.md.j2", results, trials, tables))
    save_text(artifacts.REPORT_PAGE, render_tables("tables.html.j2", results, trials, tables))
    artifacts.FIGURES.mkdir(parents=True, exist_ok=True)
    reached: dict[str, dict[str, float]] = {}
    for method, own in methods_of(found).items():
        groups: dict[str, list[float]] = {}
        for one in own:
            groups.setdefault(f"{one.target}/{one.domain}/{one.shots}", []).append(one.accuracy)
        reached[method] = {name: round(mean(values), 4) for name, values in groups.items()}
    artifacts.save_json(artifacts.METRICS, reached)
    artifacts.save_json(artifacts.TRIALS_PLOT, [])
    artifacts.save_json(artifacts.TASKS_PLOT, [])


def result_tables(
    params: Params, results: dict[str, Any], found: list[Measurement]
) -> list[ResultTable]:
    """Return the tables in the papers' form, with the papers' own rows where there are any."""
    tables = protocol_tables(results["protocol"], found)
    if results["protocol"] != "base_to_new":
        return tables
    backbone = (params.backbone.name, params.backbone.pretrained)
    notes = [artifacts.load_json(artifacts.summary_path(task)) for task in params.tasks]
    comparable = params.prepare.source == "coop" and all(n.get("comparable", True) for n in notes)
    same = is_published_benchmark(params.tasks, comparable, backbone, params.sweep.shots)
    return [*tables, published_table(same)]


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


def for_terminal(results: ResultTable) -> Table:
    """Return a table of results for the terminal."""
    table = Table(title=results.title, box=SIMPLE_HEAD, collapse_padding=True)
    for place, head in enumerate(results.columns):
        table.add_column(head, justify="left" if place < results.n_words else "right")
    for row in results.rows:
        table.add_row(*row)
    return table


def main() -> None:
    """Run the stage."""
    params = load_params()
    trials, results = (artifacts.load_json(p) for p in (artifacts.TRIALS, artifacts.RESULTS))
    found = [Measurement(**one) for one in results["measurements"]]
    tables = result_tables(params, results, found)
    artifacts.clear_folder(artifacts.REPORT)
    for name, text in table_files(tables, found).items():
        save_text(artifacts.TABLES / name, text)
    if results["protocol"] == "base_to_new":
        report = build_report(trials, results, protocol(params, results))
        save_report(report)
        console.print(result_table(report))
        console.print(f"what won: {report.headline}")
    else:
        save_pages(trials, results, tables, found)
        for table in tables:
            console.print(for_terminal(table))
    console.print(f"report: {artifacts.REPORT_PAGE}")
    tracker = Tracker(params.tracking, artifacts.STATE)
    run = tracker.open_run(results["study"], results["study"], {})
    tracker.log_artifacts(run, [artifacts.REPORT])
    tracker.close_run(run)


if __name__ == "__main__":
    run_stage(main)
