"""What the MLflow UI shows first: saved views of a sweep's trials, and descriptions.

A view is a tag of the experiment, as MLflow's own "save view" writes it; whoever opens its link
sees the trials of one sweep with their settings as columns, and its charts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from mlflow.tracking import MlflowClient

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.tracker import KEY, Tracker

TAG = "mlflow.sharedViewState."
NOTE = "mlflow.note.content"
CHARTS = "-charts"
METRICS = ("score", "base", "new", "size_bytes")


def trials_view(parent: str, axes: Sequence[str], charts_alone: bool = False) -> dict[str, Any]:
    """Return the UI's state: the trials of a sweep, the best first, and three charts.

    Args:
        parent: id of the sweep's run.
        axes: dotted names of what was searched. For the rank, the charts take its word, which
            `trial_run.rank_word` gives.
        charts_alone: whether the list of runs beside the charts is folded away.
    """
    section = str(uuid5(NAMESPACE_URL, parent))
    shared = {"deleted": False, "isGenerated": False, "metricSectionId": section}
    charts: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "displayName": "Settings and score of every trial",
            "selectedParams": ["rank" if name == "prompt.rank" else name for name in axes],
            "selectedMetrics": ["score"],
            "showAllRuns": True,
        },
        {
            "type": "SCATTER",
            "displayName": "Validation score against stored bytes",
            "xaxis": {"key": "size_bytes", "type": "METRIC"},
            "yaxis": {"key": "score", "type": "METRIC"},
            "runsCountToCompare": 100,
        },
        {
            "type": "LINE",
            "displayName": "Validation score by round",
            "metricKey": "score",
            "selectedMetricKeys": ["score"],
            "xAxisKey": "step",
        },
    ]
    return {
        "searchFilter": f"metrics.score >= 0 AND tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in METRICS),
            *(f"params.`{name}`" for name in axes),
            "attributes.`Duration`",
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {**shared, **chart, "uuid": str(uuid5(NAMESPACE_URL, f"{parent}/{place}"))}
            for place, chart in enumerate(charts)
        ],
        "compareRunSections": [
            {
                "uuid": section,
                "name": "Sweep",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "isAccordionReordered": True,
        "runListHidden": charts_alone,
    }


def saved_view(name: str, state: Mapping[str, Any], milliseconds: int) -> str:
    """Return a view as the UI keeps it; it lists views by their names."""
    return json.dumps(
        {
            "name": name,
            "createdAt": milliseconds,
            "updatedAt": milliseconds,
            "state": json.dumps(state),
        }
    )


def view_path(experiment_id: str, study: str, charts: bool = False) -> str:
    """Return the address of a sweep's view, below that of the UI."""
    mode = f"{CHARTS}&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={study}{mode}"


def links(address: str, experiment_id: str, study: str, model: str) -> dict[str, str]:
    """Return the pages of the UI that matter, by what they show.

    MLflow's front door shows one collapsed row for a whole sweep.

    Args:
        address: of the server, for instance `http://127.0.0.1:5000`.
        experiment_id: of the runs.
        study: name of the sweep.
        model: name of the registered model.
    """
    base = address.rstrip("/") + "/"
    return {
        "trials of the newest sweep": base + view_path(experiment_id, study),
        "the same as charts": base + view_path(experiment_id, study, charts=True),
        "registered versions": f"{base}#/models/{quote(model)}",
    }


def newest_links(uri: str, config: TrackingConfig, address: str, model: str) -> dict[str, str]:
    """Return the `links` of the newest sweep in a tracking store; none before the first sweep."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return {}
    sweeps = "tags.state LIKE '%'"  # only the run of a sweep has a state
    newest = ["attributes.start_time DESC"]
    runs = client.search_runs([experiment.experiment_id], sweeps, order_by=newest, max_results=1)
    if not runs:
        return {}
    return links(address, str(experiment.experiment_id), runs[0].data.tags[KEY], model)


def experiment_note(experiment_id: str, study: str) -> str:
    """Return the experiment's description, with links to its newest sweep."""
    table, charts = (view_path(experiment_id, study, kind) for kind in (False, True))
    return (
        "Sweeps over prompts for CLIP. A run is a sweep; below it are its trials, its test "
        "(`evaluate`) and its models (`register`). The newest sweep: "
        f"[its trials, the best first]({table}), [as charts]({charts})."
    )


def sweep_note(searched: Mapping[str, Any]) -> str:
    """Return the description of a sweep's run."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in searched.items())
    return (
        "One sweep. Its trials are nested below it; `score` is the harmonic mean of validation "
        "accuracy on base classes and on pseudo-new ones, `size_bytes` what is stored of a prompt. "
        "The report is among the artifacts: `report.html`, and its figures in `figures`.\n\n"
        f"| searched | values |\n|---|---|\n{rows}\n"
    )


def describe_sweep(
    tracker: Tracker, parent: str, study: str, searched: Mapping[str, Any], milliseconds: int
) -> None:
    """Describe experiment and sweep, and save two views of its trials: a table, and charts.

    Args:
        tracker: of the experiment.
        parent: id of the sweep's run.
        study: its name, and the view's key.
        searched: values by axis.
        milliseconds: since the epoch, now.
    """
    table, charts = (trials_view(parent, list(searched), kind) for kind in (False, True))
    for key, value in {
        TAG + study: saved_view(f"Trials of {study}", table, milliseconds),
        TAG + study + CHARTS: saved_view(f"Charts of {study}", charts, milliseconds),
        NOTE: experiment_note(tracker.experiment_id, study),
    }.items():
        tracker.client.set_experiment_tag(tracker.experiment_id, key, value)
    tracker.log(parent, tags={NOTE: sweep_note(searched)})
