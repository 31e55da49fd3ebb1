"""Turn the sweep's and the test's records into a report: pages, charts, tables and metrics."""

import os
from urllib.parse import urlsplit

from rich.console import Console

from pipeline.core import paths
from pipeline.core.files import clear_folder, load_record
from pipeline.core.stage import run_stage
from pipeline.data.manifest import Summary
from pipeline.params import Params, load_params
from pipeline.report.examples import example_groups
from pipeline.report.pages import for_terminal, save_report
from pipeline.report.paper_results import is_published_benchmark
from pipeline.report.report import Settings, Swept, build_report
from pipeline.tracking.tracker import Tracker
from pipeline.training.protocols import trained_tasks
from pipeline.training.results import Results


def settings(params: Params, task: str) -> Settings:
    """Return what the report must know; `task` is that of the example."""
    notes = [load_record(paths.summary_path(name), Summary) for name in params.tasks]
    comparable = params.prepare.source == "coop" and all(one.comparable for one in notes)
    backbone = (params.backbone.name, params.backbone.pretrained)
    shots = params.sweep.shots
    return Settings(
        params.sweep,
        params.train,
        params.resolver,
        params.prepare.source,
        params.features.views,
        params.evaluate.compact_within,
        comparable and is_published_benchmark(params.tasks, backbone, shots),
        usage(params.tracking.uri, params.register_.name, task),
    )


def usage(uri: str | None, name: str, task: str) -> tuple[str, ...]:
    """Return lines of Python that use the registered champion, without a password."""
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI") or uri or "")
    address = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    shown = address if parts.hostname else f"sqlite:///{paths.STATE / 'mlflow.db'}"
    return (
        f"# in the project's folder, with MLFLOW_TRACKING_URI={shown}",
        "from pipeline.registry.client import predict",
        f'answers = predict("models:/{name}@champion", ["picture.png"], task="{task}")',
        'print(answers[["class_name", "probability"]])',
    )


def main() -> None:
    """Run the stage."""
    params, console = load_params(), Console(highlight=False)
    swept, results = load_record(paths.TRIALS, Swept), load_record(paths.RESULTS, Results)
    clear_folder(paths.REPORT)
    task = trained_tasks(params.tested_by, params.tasks)[0]
    examples = example_groups(task, params.evaluate.seeds[0], params.tested_by, params.inputs)
    report = build_report(swept, results, settings(params, task), examples)
    shown = save_report(report)
    console.print(for_terminal(shown["results"][0]))
    console.print(*shown["verdict"])
    console.print(f"report: {paths.REPORT_PAGE}")
    tracker = Tracker(params.tracking, paths.STATE)
    run = tracker.open_run(results.study, results.study, {})
    tracker.log_artifacts(run, [paths.REPORT])
    tracker.close_run(run)


if __name__ == "__main__":
    run_stage(main)
