"""What the sweep and the test say: tables, sentences and pages, computed from records.

Accuracies are in [0, 1] here and in percent on the pages. The only module that imports jinja2.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.evaluate import ZERO_SHOT, TestRow
from pipeline.metrics import harmonic_mean, mean_and_spread
from pipeline.selection import TrialRecord, pareto_front

METHODS = {ZERO_SHOT: "zero-shot", "coop": "CoOp", "compact": "compact", "champion": "champion"}
"""Methods in the order of the tables, and their names for people."""
MEASURES = {"base": "base classes", "new": "new classes", "harmonic_mean": "harmonic mean"}


@dataclass(frozen=True)
class Stat:
    """A quantity, once per seed; zero-shot has no seed and a single value."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds; None for a single value."""
        return mean_and_spread(self.values)[1] if len(self.values) > 1 else None


@dataclass(frozen=True)
class MethodSummary:
    """A method over some tasks; every value is a mean over these tasks, per seed.

    Attributes:
        method: a key of `METHODS`.
        base, new: accuracy in the shot styles.
        harmonic_mean: of the averaged base and the averaged new, the field's definition.
        task_harmonic_mean: mean of the tasks' own harmonic means; never above the other.
        held_out_base, held_out_new: in the held-out styles; None if no task has any.
        size_bytes, n_parameters: of one task's prompt, the largest.
        seconds: of training one task's prompt, mean.
    """

    method: str
    base: Stat
    new: Stat
    harmonic_mean: Stat
    task_harmonic_mean: Stat
    held_out_base: Stat | None
    held_out_new: Stat | None
    size_bytes: int
    n_parameters: int
    seconds: float

    @property
    def label(self) -> str:
        """The method's name for people."""
        return METHODS.get(self.method, self.method)


@dataclass(frozen=True)
class AxisRow:
    """All trials that share one value of a setting: means of validation accuracy."""

    value: str
    n_trials: int
    base: float
    new: float
    score: float
    best: float


@dataclass(frozen=True)
class Protocol:
    """What the pages must say about the data, from params.yaml."""

    shot_styles: list[str]
    held_out_styles: list[str]
    sweep_tasks: list[str]
    shots: int
    shots_available: int
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
    rows = [TestRow(**row) for row in results["rows"]]
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


def check_rows(rows: Sequence[TestRow]) -> None:
    """Refuse test rows from which no fair mean can be taken.

    Raises:
        ValueError: unless every method has every task with its seeds, once each.
    """
    tasks = {row.task for row in rows}
    for method in dict.fromkeys(row.method for row in rows):
        cells = [(row.task, row.seed) for row in rows if row.method == method]
        wanted = {(task, seed) for task in tasks for _, seed in cells}
        if set(cells) != wanted or len(cells) != len(wanted):
            raise ValueError(
                f"results.json: {method} has {len(cells)} rows; allowed is one for "
                f"each of {len(wanted)} pairs of task and seed"
            )
    if ZERO_SHOT not in {row.method for row in rows}:
        raise ValueError(f"results.json: no rows of {ZERO_SHOT}, with which all is compared")


def summarize_methods(rows: Sequence[TestRow]) -> dict[str, MethodSummary]:
    """Summarize each method over the tasks of `rows`, in the order of `METHODS`."""
    present = {row.method for row in rows}
    order = [*(m for m in METHODS if m in present), *sorted(present - set(METHODS))]
    return {
        method: summarize(method, [row for row in rows if row.method == method]) for method in order
    }


def summarize(method: str, rows: Sequence[TestRow]) -> MethodSummary:
    """Summarize one method: the mean over tasks for each seed, seeds in ascending order."""
    by_seed: dict[int, list[TestRow]] = {}
    for row in sorted(rows, key=lambda row: row.seed or 0):
        by_seed.setdefault(row.seed or 0, []).append(row)
    groups = list(by_seed.values())

    def held_out(name: str) -> Stat | None:
        known = [
            [getattr(r, name) for r in group if getattr(r, name) is not None] for group in groups
        ]
        return Stat(tuple(mean(values) for values in known)) if all(known) else None

    base = Stat(tuple(mean(row.base for row in group) for group in groups))
    new = Stat(tuple(mean(row.new for row in group) for group in groups))
    return MethodSummary(
        method,
        base,
        new,
        Stat(tuple(harmonic_mean(b, n) for b, n in zip(base.values, new.values, strict=True))),
        Stat(tuple(mean(row.harmonic_mean for row in group) for group in groups)),
        held_out("held_out_base"),
        held_out("held_out_new"),
        max(row.size_bytes for row in rows),
        max(row.n_parameters for row in rows),
        mean(row.seconds for row in rows),
    )


def axis_order(value: Any) -> tuple[bool, Any]:
    """Sort key of a setting's values: numbers ascending, then words (`full`)."""
    return isinstance(value, str), value


def axis_table(trials: Sequence[TrialRecord], name: str) -> list[AxisRow]:
    """Average the trials that share a value of the setting `name`; empty if none has it."""
    values = {trial.settings[name] for trial in trials if name in trial.settings}
    table = []
    for value in sorted(values, key=axis_order):
        group = [trial for trial in trials if trial.settings.get(name) == value]
        table.append(
            AxisRow(
                str(value),
                len(group),
                mean(t.base for t in group),
                mean(t.new for t in group),
                mean(t.score for t in group),
                max(t.score for t in group),
            )
        )
    return table


def percent(value: float) -> str:
    """Write an accuracy in percent with one decimal: `71.2`."""
    return f"{100 * value:.1f}"


def points(difference: float) -> str:
    """Write a difference of accuracies in points, signed: `+1.2`; `0.0` has no sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def with_spread(stat: Stat | None) -> str:
    """Write a quantity in percent: `71.2 ± 0.4`, `71.2` for a single value, a dash for None."""
    if stat is None:
        return "\N{EN DASH}"
    return percent(stat.mean) + ("" if stat.spread is None else f" ± {percent(stat.spread)}")


def describe(settings: Mapping[str, Any]) -> str:
    """Describe a configuration in words: `rank 2, 4 bits, 8 context tokens, lr 0.05`."""
    words = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        number = f"{value:.3g}" if isinstance(value, float) else str(value)
        plural = "" if value == 1 else "s"
        words.append(
            {
                "rank": "full rank" if value == "full" else f"rank {value}",
                "bits": f"{value} bit{plural}",
                "n_ctx": f"{value} context token{plural}",
            }.get(name, f"{name} {number}")
        )
    return ", ".join(words)


def listed(words: Sequence[str]) -> str:
    """Write a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def times(first: int, second: int) -> str:
    """Compare two sizes in bytes: `4.2 times smaller`, `2.0 times larger` or `equally large`."""
    if first == second:
        return "equally large"
    if not min(first, second):
        return f"{abs(first - second):,} bytes {'larger' if first > second else 'smaller'}"
    ratio = max(first, second) / min(first, second)
    return f"{ratio:.1f} times {'larger' if first > second else 'smaller'}"


def selection_sentences(
    trials: Sequence[TrialRecord], winners: Mapping[str, TrialRecord], within: float
) -> list[str]:
    """Say which trials won on validation data, and by how much."""
    champion, compact, coop = (winners.get(role) for role in ("champion", "compact", "coop"))
    assert champion
    assert compact
    sentences = [
        f"{len(trials)} trials were scored on validation data alone; {len(pareto_front(trials))} "
        "of them on the Pareto front of score and size. Champion, the best score, is "
        f"trial {champion.number} ({describe(champion.settings)}): harmonic mean "
        f"{percent(champion.score)} %, {champion.size_bytes:,} bytes."
    ]
    rule = f"Compact, the smallest prompt within {percent(within)} points of the best score, is"
    if compact.number == champion.number:
        sentences.append(f"{rule} the champion itself.")
    else:
        sentences.append(
            f"{rule} trial {compact.number} ({describe(compact.settings)}): "
            f"{percent(compact.score)} %, {compact.size_bytes:,} bytes, "
            f"{times(compact.size_bytes, champion.size_bytes)} than the champion.".replace(
                "equally large than", "as large as"
            )
        )
    rule = "Plain CoOp (full rank, 16 bits) at its best learning rate is"
    if coop is None:
        sentences.append("No trial is plain CoOp (full rank, 16 bits), so it is not compared.")
    elif coop.number == champion.number:
        sentences.append(
            f"{rule} the champion itself: no trial of any other kind scored higher."
            if {trial.settings.get("prompt.bits") for trial in trials} != {16}
            or {trial.settings.get("prompt.rank") for trial in trials} != {"full"}
            else f"{rule} the champion itself; no low-rank or quantized prompt was tried."
        )
    else:
        sentences.append(
            f"{rule} trial {coop.number} ({describe(coop.settings)}): {percent(coop.score)} %, "
            f"{coop.size_bytes:,} bytes. The champion scores "
            f"{points(champion.score - coop.score)} points and is "
            f"{times(champion.size_bytes, coop.size_bytes)}."
        )
    return sentences


def comparison_sentences(
    methods: Mapping[str, MethodSummary],
    tasks: Mapping[str, Mapping[str, MethodSummary]],
    winners: Mapping[str, TrialRecord],
) -> list[str]:
    """Say what the test says, gains and losses alike."""
    tuned = [name for name in ("champion", "compact", "coop") if name in methods]
    distinct = {winners[name].number: name for name in reversed(tuned)}.values()
    sentences = [
        compare(methods[name], methods[ZERO_SHOT], tasks) for name in tuned if name in distinct
    ]
    if {"champion", "coop"} <= set(distinct):
        sentences.append(compare(methods["champion"], methods["coop"], tasks))
    if "champion" in tuned:
        sentences += held_out_sentences(methods["champion"], methods[ZERO_SHOT])
    return sentences


def best_on_test(methods: Mapping[str, MethodSummary]) -> MethodSummary:
    """Return the method with the highest harmonic mean.

    Of those equal to a tenth of a percent: zero-shot, then champion, then the smaller.
    """
    ties = {ZERO_SHOT: 0, "champion": 1}
    return min(
        methods.values(),
        key=lambda m: (-round(m.harmonic_mean.mean, 3), ties.get(m.method, 2), m.size_bytes),
    )


def headline(methods: Mapping[str, MethodSummary]) -> str:
    """Say in one sentence which method has the best harmonic mean on test images."""
    best, zero = best_on_test(methods), methods[ZERO_SHOT]
    reached = f"({with_spread(best.harmonic_mean)} %)"
    if best.method == ZERO_SHOT:
        return (
            f"On test images, zero-shot {reached} wins: no tuned prompt has a higher harmonic mean."
        )
    overall, base, new = (
        points(getattr(best, name).mean - getattr(zero, name).mean)
        for name in ("harmonic_mean", "base", "new")
    )
    text = (
        f"On test images, {best.label} {reached} has the highest harmonic mean: {overall} points "
        f"against zero-shot ({with_spread(zero.harmonic_mean)} %), {base} on base and {new} on "
        "new classes."
    )
    if best.method == "champion" or "champion" not in methods:
        return text
    gap = points(methods["champion"].harmonic_mean.mean - best.harmonic_mean.mean)
    return f"{text} The champion of the validation data is at {gap} points from it."


def compare(
    method: MethodSummary,
    other: MethodSummary,
    tasks: Mapping[str, Mapping[str, MethodSummary]],
) -> str:
    """Compare two methods on base, new and harmonic mean, over all seeds and tasks."""
    parts, gains = [], {}
    for name, words in MEASURES.items():
        mine, theirs = getattr(method, name), getattr(other, name)
        gains[name] = round(100 * (mine.mean - theirs.mean), 1)
        verb = "ties on" if not gains[name] else "wins on" if gains[name] > 0 else "loses on"
        n_tasks = sum(
            getattr(task[method.method], name).mean > getattr(task[other.method], name).mean
            for task in tasks.values()
        )
        ahead, n_seeds = seeds_ahead(mine, theirs)
        parts.append(
            f"{verb} {words} ({points(mine.mean - theirs.mean)} points; ahead in "
            f"{ahead} of {n_seeds} seeds and {n_tasks} of {len(tasks)} tasks)"
        )
    text = f"{method.label} against {other.label}: {parts[0]}, {parts[1]}, {parts[2]}."
    return text[0].upper() + text[1:] + balance(gains)


def held_out_sentences(method: MethodSummary, zero: MethodSummary) -> list[str]:
    """Compare a method with zero-shot in the held-out styles; nothing if there are none."""
    parts = [
        f"{points(mine.mean - theirs.mean)} points on {words} classes ({with_spread(mine)} % "
        f"against {with_spread(theirs)} %)"
        for mine, theirs, words in (
            (method.held_out_base, zero.held_out_base, "base"),
            (method.held_out_new, zero.held_out_new, "new"),
        )
        if mine and theirs
    ]
    text = f"In held-out styles, {method.label} against {zero.label}: {' and '.join(parts)}."
    return [text] if parts else []


def seeds_ahead(mine: Stat, theirs: Stat) -> tuple[int, int]:
    """Count the seeds at which `mine` is above `theirs`, and all seeds; equal seeds are paired."""
    n_seeds = len(mine.values)
    others = theirs.values if len(theirs.values) == n_seeds else (theirs.mean,) * n_seeds
    return sum(a > b for a, b in zip(mine.values, others, strict=True)), n_seeds


def balance(gains: Mapping[str, float]) -> str:
    """Say which side pays for the other; nothing when base and new agree."""
    base, new, overall = (gains[name] for name in MEASURES)
    if base * new >= 0:
        return ""
    winner, loser = ("base", "new") if base > 0 else ("new", "base")
    verdict = "outweighs" if overall > 0 else "does not outweigh"
    return f" What it gains on {winner} classes {verdict} what it loses on {loser} ones."


def axis_sentence(name: str, table: Sequence[AxisRow]) -> str:
    """Say between which values of a setting the mean score differs most, on validation data."""
    if len(table) < 2:
        return f"The trials do not vary {name}, so nothing is said about it."
    high, low = max(table, key=lambda r: r.score), min(table, key=lambda r: r.score)
    return (
        f"Over {name}, the mean validation score is highest at {high.value} "
        f"({percent(high.score)} %, trials: {high.n_trials}) and lowest at {low.value} "
        f"({percent(low.score)} %, trials: {low.n_trials}); from the lowest to the highest, base "
        f"changes by {points(high.base - low.base)} and new by "
        f"{points(high.new - low.new)} points."
    )


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


def render(template: str, report: Report, pictures: Sequence[Picture]) -> str:
    """Fill `report.md.j2` or `report.html.j2`; the HTML page loads nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("pipeline"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template.endswith(".html.j2"),
    )
    environment.filters |= {
        "percent": percent,
        "with_spread": with_spread,
        "describe": describe,
        "listed": listed,
    }
    return environment.get_template(template).render(
        report=report,
        pictures=pictures,
        labels=METHODS,
        best_of=best_on_test,
    )
