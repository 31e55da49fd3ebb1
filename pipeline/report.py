"""What the sweep and the test say: tables, sentences and pages, computed from records.

Accuracies are in [0, 1] here and in percent on the pages. The only module that imports jinja2.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.evaluate import Measurement, base_to_new_rows
from pipeline.findings import (
    axis_sentence,
    best_on_test,
    comparison_sentences,
    describe,
    headline,
    listed,
    percent,
    selection_sentences,
    with_spread,
)
from pipeline.selection import TrialRecord
from pipeline.summary import (
    MEASURES,
    METHODS,
    AxisRow,
    MethodSummary,
    axis_table,
    check_rows,
    summarize_methods,
)
from pipeline.tables import ResultTable


@dataclass(frozen=True)
class Protocol:
    """What the pages must say about the data.

    Attributes:
        source: of the data, `prepare.source`.
        shot_styles, held_out_styles: domains with and without training images.
        shots_available: training images of the smallest and of the largest class of all tasks.
    """

    source: str
    shot_styles: list[str]
    held_out_styles: list[str]
    sweep_tasks: list[str]
    shots: int
    shots_available: tuple[int, int]
    views: int
    compact_within: float


@dataclass(frozen=True)
class Picture:
    """A figure for the pages."""

    name: str
    title: str
    caption: str
    svg: bytes

    @property
    def data_uri(self) -> str:
        """The figure inside its own address, so that the page needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Report:
    """Everything that the pages, the figures and the terminal show."""

    study: str
    trials: list[TrialRecord]
    winners: dict[str, TrialRecord]
    methods: dict[str, MethodSummary]
    tasks: dict[str, dict[str, MethodSummary]]
    axis_tables: dict[str, list[AxisRow]]
    headline: str
    findings: list[str]
    protocol: Protocol
    provenance: dict[str, str]

    @property
    def n_seeds(self) -> int:
        """Seeds of the test; 1 if only zero-shot was tested."""
        return max(len(method.base.values) for method in self.methods.values())


def build_report(
    trials: Mapping[str, Any], results: Mapping[str, Any], protocol: Protocol
) -> Report:
    """Summarize the contents of trials.json and results.json.

    Raises:
        ValueError: if they are from different studies, or a test row is missing or doubled.
    """
    if trials["study"] != results["study"]:
        raise ValueError(
            f"results.json: study {results['study']}, but trials.json has "
            f"{trials['study']}; run `dvc repro evaluate`"
        )
    records = [TrialRecord(**record) for record in trials["trials"]]
    winners = {role: TrialRecord(**record) for role, record in results["winners"].items()}
    rows = base_to_new_rows([Measurement(**one) for one in results["measurements"]])
    check_rows(rows)
    methods = summarize_methods(rows)
    tasks = {
        task: summarize_methods([row for row in rows if row.task == task])
        for task in dict.fromkeys(row.task for row in rows)
    }
    axis_tables = {name: axis_table(records, f"prompt.{name}") for name in ("rank", "bits")}
    findings = [
        *selection_sentences(records, winners, protocol.compact_within),
        *comparison_sentences(methods, tasks, winners),
        *(axis_sentence(name, table) for name, table in axis_tables.items()),
    ]
    return Report(
        study=trials["study"],
        trials=records,
        winners=winners,
        methods=methods,
        tasks=tasks,
        axis_tables=axis_tables,
        headline=headline(methods),
        findings=findings,
        protocol=protocol,
        provenance=flat_provenance(trials, results),
    )


def flat_provenance(trials: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Return where the numbers come from, one line each; sweep and test apart if they differ."""
    tags, test = trials.get("tags", {}), dict(results.get("provenance", {}))
    versions = {k.removeprefix("version."): v for k, v in tags.items() if k.startswith("version.")}
    sweep = {**tags, "versions": versions}
    lines = {"study": str(trials["study"])}
    for name in ("git_commit", "data_hash", "backbone", "versions", "seeds", "sampler_seed"):
        found = {"sweep": sweep.get(name), "test": test.get(name)}
        same = found["sweep"] == found["test"]
        for stage, value in found.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {version}" for key, version in value.items())
            if value and not (same and stage == "test"):
                lines[name.replace("_", " ") + ("" if same else f" ({stage})")] = str(value)
    return lines


def metrics(report: Report) -> dict[str, dict[str, float | int]]:
    """Return what `dvc metrics show` compares: per method, rounded, in [0, 1] and bytes."""
    result: dict[str, dict[str, float | int]] = {}
    for name, method in report.methods.items():
        stats = {key: getattr(method, key) for key in (*MEASURES, "held_out_base", "held_out_new")}
        result[name] = {k: round(stat.mean, 4) for k, stat in stats.items() if stat is not None}
        if method.harmonic_mean.spread is not None:
            result[name]["harmonic_mean_spread"] = round(method.harmonic_mean.spread, 4)
        result[name]["size_bytes"] = method.size_bytes
    return result


def trial_points(report: Report) -> list[dict[str, Any]]:
    """Return one flat row per trial, for DVC's plots; accuracies in percent."""
    roles = {record.number: role for role, record in reversed(report.winners.items())}
    return [
        {
            "trial": t.number,
            "role": roles.get(t.number, "trial"),
            "bytes": t.size_bytes,
            "score": round(100 * t.score, 2),
            "base": round(100 * t.base, 2),
            "new": round(100 * t.new, 2),
        }
        | {key.rpartition(".")[2]: value for key, value in t.settings.items()}
        for t in report.trials
    ]


def task_points(report: Report) -> list[dict[str, Any]]:
    """Return one flat row per task and method, for DVC's plots; accuracies in percent."""
    return [
        {"method": name, "task": task}
        | {key: round(100 * getattr(method, key).mean, 2) for key in MEASURES}
        for task, methods in report.tasks.items()
        for name, method in methods.items()
    ]


def pages() -> Environment:
    """Return what fills templates; HTML pages load nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("pipeline"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    environment.filters |= {
        "percent": percent,
        "with_spread": with_spread,
        "describe": describe,
        "listed": listed,
    }
    return environment


def render(template: str, report: Report, pictures: Sequence[Picture]) -> str:
    """Fill `report.md.j2` or `report.html.j2`."""
    return (
        pages()
        .get_template(template)
        .render(report=report, pictures=pictures, labels=METHODS, best_of=best_on_test)
    )


def render_tables(
    template: str,
    results: Mapping[str, Any],
    trials: Mapping[str, Any],
    tables: Sequence[ResultTable],
) -> str:
    """Fill `tables.md.j2` or `tables.html.j2`: the pages of protocols without base and new."""
    return (
        pages()
        .get_template(template)
        .render(
            protocol=results["protocol"],
            study=results["study"],
            tables=tables,
            provenance=flat_provenance(trials, results),
        )
    )
