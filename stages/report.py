"""Turn the sweep's and the test's records into a report: pages, figures, metrics, plots."""

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.core import paths
from pipeline.core.files import clear_folder, load_json, load_record, save_json, write_atomic
from pipeline.core.stage import run_stage
from pipeline.data.decode import read_picture
from pipeline.data.manifest import Manifest, Summary, load_manifest
from pipeline.params import Params, load_params
from pipeline.prompts.file import load_prompt
from pipeline.report.charts import live_charts, script
from pipeline.report.examples import Example, ExampleGroup, group, predict, thumbnail
from pipeline.report.figures import save_figures
from pipeline.report.findings.method import with_spread
from pipeline.report.pages import render
from pipeline.report.points import (
    accuracy_points,
    curve_points,
    importance_points,
    rank_bits_points,
    trial_points,
)
from pipeline.report.report import Extras, Protocol, Report, build_report, metrics
from pipeline.report.tables import (
    ResultTable,
    is_published_benchmark,
    protocol_tables,
    published_table,
    table_files,
)
from pipeline.sweep.importance import importances
from pipeline.sweep.selection import choose_champion
from pipeline.tracking.tracker import Tracker
from pipeline.training.inputs import check_study, load_inputs
from pipeline.training.protocols import targets, trained_tasks
from pipeline.training.records import Measurement, TrialRecord
from pipeline.training.results import TaskData

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


def searched(params: Params) -> dict[str, str]:
    """Return what was searched, in words."""
    sweep, asha = params.sweep, params.sweep.asha
    words = {
        "objective": "validation score up and stored bytes down (Pareto); every trial to its end"
        if sweep.objective == "pareto"
        else "validation score alone; trials that fall behind are stopped (successive halving: of "
        f"those at a rung, one in {asha.reduction_factor:g} goes on; the first after round "
        f"{asha.grace_rounds})",
        "trials": f"{sweep.n_trials}, proposed by Optuna's TPE (seed {sweep.sampler_seed}); "
        f"{len(sweep.first)} given to begin with",
    }
    words |= {name: axis.words for name, axis in sweep.space.items()}
    if params.method:
        words["method"] = params.method
    words["a trial"] = (
        f"{len(sweep.tasks)} task{'s' if len(sweep.tasks) > 1 else ''} "
        f"({', '.join(sweep.tasks)}), {sweep.shots} shots, seeds "
        f"{', '.join(str(seed) for seed in sweep.seeds)}; score: harmonic mean of the mean base "
        "and the mean new accuracy"
    )
    words["training"] = f"schedule {params.train.schedule}, measured {params.train.rounds} times"
    return words


def named_trials(params: Params, trials: Mapping[str, Any]) -> dict[str, int]:
    """Return the best trial's number of every named method that the sweep tried."""
    records = [TrialRecord(**own) for own in trials["trials"]]
    found = {
        name: [trial for trial in records if params.resolver.is_method(trial.settings, name)]
        for name in params.methods
    }
    return {name: choose_champion(own).number for name, own in found.items() if own}


def example_groups(params: Params) -> list[ExampleGroup]:
    """Return predictions of the champion on its first task, its first seed."""
    chosen = params.tested_by
    task, seed = trained_tasks(chosen, params.tasks)[0], params.evaluate.seeds[0]
    path = paths.prompt_path("champion", task, seed)
    prompt, _ = load_prompt(path)
    coupling = prompt.tensors.get("coupling_JWD")
    depth = coupling.shape[0] if coupling else 0
    inputs = load_inputs([task], params.inputs._replace(init=prompt.init), prompt.n_ctx, depth)
    load_prompt(path, inputs.backbone.fingerprint)  # refuses a prompt of another backbone
    manifest = load_manifest(paths.manifest_path(task), root=params.prepare.root)
    features, caption_KE = inputs.tasks[task], inputs.captions_KE(task)
    found = []
    for target in targets(chosen, task, {task: features}):
        if target.task == task and target.domain == "shots":
            said = predict(inputs.text, features, prompt, caption_KE, target)
            found.append(group(target, said, lambda one: with_picture(one, manifest)))
    return found


def with_picture(one: Example, manifest: Manifest) -> Example:
    """Return an example with its picture, which is saved beside the figures, too."""
    image = manifest.rows["image"].iloc[one.row]
    picture = read_picture(image["path"] if image["bytes"] is None else image["bytes"])
    one = replace(one, png=thumbnail(picture))
    path = paths.FIGURES / "examples" / f"{one.row}.png"
    write_atomic(path, lambda temporary: temporary.write_bytes(one.png))
    return one


def usage(params: Params) -> list[str]:
    """Return lines that use the registered champion."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri
    parts = urlsplit(uri or "")
    address = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    shown = address if parts.hostname else f"sqlite:///{paths.STATE / 'mlflow.db'}"
    task = trained_tasks(params.protocols[params.protocol], params.tasks)[0]
    model = f"models:/{params.register_.name}@champion"
    return [
        f"# in the project's folder, with MLFLOW_TRACKING_URI={shown}",
        "from pipeline.registry.client import predict",
        f'answers = predict("{model}", ["picture.png"], task="{task}")',
        'print(answers[["class_name", "probability"]])',
    ]


def extras(params: Params, trials: Mapping[str, Any], tables: list[ResultTable]) -> Extras:
    """Return what the report shows beside the records."""
    records = [TrialRecord(**own) for own in trials["trials"]]
    return Extras(
        objective=params.sweep.objective,
        searched=searched(params),
        named=named_trials(params, trials),
        importances=importances(records, params.sweep.space),
        tables=tables,
        examples=example_groups(params),
        usage=usage(params),
        environment={
            "report made by": f"Python {platform.python_version()} on {platform.system()} "
            f"{platform.machine()}",
        },
    )


def save_report(report: Report) -> None:
    """Write the pages, the figures and what DVC compares."""
    pictures = save_figures(report, paths.FIGURES)
    save_text(paths.REPORT_TEXT, render("report.md.j2", report, pictures))
    page = render("report.html.j2", report, pictures, live_charts(report), script())
    save_text(paths.REPORT_PAGE, page)
    save_json(paths.METRICS, metrics(report))
    for name, rows in {
        "trials": trial_points(report),
        "tasks": accuracy_points(report),
        "curves": curve_points(report),
        "rank-bits": rank_bits_points(report),
        "importances": importance_points(report),
    }.items():
        save_json(paths.PLOTS / f"{name}.json", rows)


def result_tables(
    params: Params, results: dict[str, Any], found: list[Measurement]
) -> list[ResultTable]:
    """Return the tables in the papers' form, with the papers' own rows where there are any."""
    tables = protocol_tables(results["protocol"], found)
    if results["protocol"] != "base_to_new":
        return tables
    backbone = (params.backbone.name, params.backbone.pretrained)
    notes = [load_record(paths.summary_path(task), Summary) for task in params.tasks]
    comparable = params.prepare.source == "coop" and all(one.comparable for one in notes)
    same = is_published_benchmark(params.tasks, comparable, backbone, params.sweep.shots)
    return [*tables, published_table(same)]


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, "utf-8"))


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
    trials, results = (load_json(p) for p in (paths.TRIALS, paths.RESULTS))
    check_study(paths.RESULTS, results["study"], trials["study"], "evaluate")
    found = [Measurement(**one) for one in results["measurements"]]
    tables = result_tables(params, results, found)
    clear_folder(paths.REPORT)
    for name, text in table_files(tables, found).items():
        save_text(paths.TABLES / name, text)
    report = build_report(
        trials, results, protocol(params, results), extras(params, trials, tables)
    )
    save_report(report)
    for shown in [result_table(report)] if report.methods else map(for_terminal, tables):
        console.print(shown)
    console.print(f"what won: {report.headline}")
    console.print(f"report: {paths.REPORT_PAGE}")
    tracker = Tracker(params.tracking, paths.STATE)
    run = tracker.open_run(results["study"], results["study"], {})
    tracker.log_artifacts(run, [paths.REPORT])
    tracker.close_run(run)


if __name__ == "__main__":
    run_stage(main)
