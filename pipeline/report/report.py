"""What the sweep and the test say: tables, sentences and points, computed from records.

Accuracies are in [0, 1] here and in percent on the pages and in the points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.examples import ExampleGroup
from pipeline.report.findings.method import comparison_sentences, headline
from pipeline.report.findings.sweep import (
    axis_sentence,
    curve_sentence,
    ended_sentence,
    importance_sentence,
    selection_sentences,
)
from pipeline.report.findings.transfer import (
    reached,
    transfer_headline,
    transfer_panels,
    transfer_sentences,
)
from pipeline.report.summary import (
    MEASURES,
    AxisRow,
    MethodSummary,
    Panel,
    axis_table,
    check_rows,
    summarize_methods,
    task_panels,
)
from pipeline.report.tables import ResultTable
from pipeline.sweep.importance import Importance
from pipeline.sweep.selection import pareto_front
from pipeline.training.records import FailedTrial, Measurement, TrialRecord
from pipeline.training.refit import base_to_new_rows

BASE_TO_NEW = "base_to_new"


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
class Extras:
    """What a report shows beside the records of sweep and test.

    Attributes:
        objective: of the sweep, `pareto` or `score`.
        searched: what was searched, in words, by name.
        named: the best trial's number of every named method that the sweep tried.
        importances: of the axes.
        tables: in the papers' form.
        examples: predictions of the champion.
        usage: lines of Python that use the winner.
        environment: what made this report, by name.
    """

    objective: str = "pareto"
    searched: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, int] = field(default_factory=dict)
    importances: list[Importance] = field(default_factory=list)
    tables: list[ResultTable] = field(default_factory=list)
    examples: list[ExampleGroup] = field(default_factory=list)
    usage: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that the pages, the figures and the terminal show.

    `methods` and `tasks` are of the protocol base to new; with another one they are empty.
    """

    study: str
    protocol_name: str
    trials: list[TrialRecord]
    pruned: list[TrialRecord]
    failed: list[FailedTrial]
    winners: dict[str, TrialRecord]
    methods: dict[str, MethodSummary]
    tasks: dict[str, dict[str, MethodSummary]]
    panels: list[Panel]
    axis_tables: dict[str, list[AxisRow]]
    headline: str
    sweep_findings: list[str]
    test_findings: list[str]
    measurements: list[Measurement]
    protocol: Protocol
    provenance: dict[str, str]
    extras: Extras

    @property
    def n_seeds(self) -> int:
        """Seeds of the test; 1 if only zero-shot was tested."""
        return max(1, len({one.seed for one in self.measurements} - {None}))

    @property
    def n_tasks(self) -> int:
        """Tasks that were trained on for the test."""
        return len({one.source for one in self.measurements})

    @property
    def front(self) -> list[TrialRecord]:
        """The trials that no other beats in score without being larger."""
        return pareto_front(self.trials)

    @property
    def marked(self) -> dict[str, TrialRecord]:
        """Winners, and the best trials of the papers' methods, by name."""
        by_number = {trial.number: trial for trial in self.trials}
        named = {name: by_number[number] for name, number in self.extras.named.items()}
        return {**named, **self.winners}


def build_report(
    trials: Mapping[str, Any],
    results: Mapping[str, Any],
    protocol: Protocol,
    extras: Extras | None = None,
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
    extras = extras or Extras()
    records, pruned = ([TrialRecord(**own) for own in trials[key]] for key in ("trials", "pruned"))
    failed = [FailedTrial(**own) for own in trials["failed"]]
    winners = {role: TrialRecord(**record) for role, record in results["winners"].items()}
    measurements = [Measurement(**one) for one in results["measurements"]]
    axis_tables = {name: axis_table(records, f"prompt.{name}") for name in ("rank", "bits")}
    name = results["protocol"]
    methods, tasks = method_summaries(measurements) if name == BASE_TO_NEW else ({}, {})
    return Report(
        study=trials["study"],
        protocol_name=name,
        trials=records,
        pruned=pruned,
        failed=failed,
        winners=winners,
        methods=methods,
        tasks=tasks,
        panels=task_panels(tasks) if methods else transfer_panels(name, measurements),
        axis_tables=axis_tables,
        headline=headline(methods) if methods else transfer_headline(name, measurements),
        sweep_findings=[
            ended_sentence(records, pruned, failed),
            *selection_sentences(records, winners, protocol.compact_within, extras.objective),
            curve_sentence(winners["champion"]),
            importance_sentence(extras.importances, len(records)),
            *(axis_sentence(axis, table) for axis, table in axis_tables.items()),
        ],
        test_findings=comparison_sentences(methods, tasks, winners)
        if methods
        else transfer_sentences(name, measurements),
        measurements=measurements,
        protocol=protocol,
        provenance=flat_provenance(trials, results) | dict(extras.environment),
        extras=extras,
    )


def method_summaries(
    measurements: list[Measurement],
) -> tuple[dict[str, MethodSummary], dict[str, dict[str, MethodSummary]]]:
    """Summarize every method over all tasks, and on each task.

    Raises:
        ValueError: if a row is missing or doubled.
    """
    rows = base_to_new_rows(measurements)
    check_rows(rows)
    tasks = {
        task: summarize_methods([row for row in rows if row.task == task])
        for task in dict.fromkeys(row.task for row in rows)
    }
    return summarize_methods(rows), tasks


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


def metrics(report: Report) -> Mapping[str, Mapping[str, float | int]]:
    """Return what `dvc metrics show` compares: per method, rounded, in [0, 1] and bytes."""
    if not report.methods:
        return reached(report.measurements)
    result: dict[str, dict[str, float | int]] = {}
    for name, method in report.methods.items():
        stats = {key: getattr(method, key) for key in (*MEASURES, "held_out_base", "held_out_new")}
        result[name] = {k: round(stat.mean, 4) for k, stat in stats.items() if stat is not None}
        if method.harmonic_mean.spread is not None:
            result[name]["harmonic_mean_spread"] = round(method.harmonic_mean.spread, 4)
        result[name]["size_bytes"] = method.size_bytes
    return result
