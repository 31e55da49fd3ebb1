"""A small sweep and its test, made by hand: what a report is built from."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.report.report import Extras, Protocol, Report, build_report
from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import Measurement, TestRow, TrialRecord
from pipeline.training.refit import ZERO_SHOT
from tests.helpers.records import ORIGIN

PROTOCOL = Protocol(
    "emoji", ["noto", "twemoji"], ["emojione"], ["food", "play"], 16, (16, 16), 2, 0.01
)
SETTINGS = [("full", 16, 0.1), ("full", 2, 0.1), (1, 16, 0.01), (1, 2, 0.3), (2, 2, 0.02)]
SCORES = [(0.8, 0.6), (0.7, 0.6), (0.6, 0.6), (0.8, 0.7), (0.7, 0.5)]
SIZES = [1024, 136, 264, 49, 82]


def history(base: float, new: float, rounds: int = 3) -> list[dict[str, float]]:
    """Return what a trial measured: it gains on base and loses on new on its way to both."""
    return [
        {"loss": 1.0 - 0.1 * place, "base": b, "new": n, "score": harmonic_mean(b, n)}
        for place in range(rounds)
        for back in (rounds - 1 - place,)
        for b, n in ((base - 0.02 * back, new + 0.05 * back),)
    ]


def trial_records() -> list[TrialRecord]:
    return [
        TrialRecord(
            number,
            {"prompt.rank": rank, "prompt.bits": bits, "prompt.n_ctx": 4, "train.lr": lr},
            harmonic_mean(base, new),
            base,
            new,
            size,
            {},
            history(base, new),
            1.5,
            ORIGIN,
        )
        for number, ((rank, bits, lr), (base, new), size) in enumerate(
            zip(SETTINGS, SCORES, SIZES, strict=True)
        )
    ]


def row(method: str, task: str, seed: int | None, base: float, new: float) -> TestRow:
    size = {ZERO_SHOT: 0, "coop": 1024}.get(method, 49)
    return TestRow(
        method,
        task,
        seed,
        base,
        new,
        harmonic_mean(base, new),
        base - 0.1,
        new - 0.1,
        size,
        2 * size,
        3.0,
    )


def sample_rows(champion_new: float = 0.0) -> list[TestRow]:
    """Two tasks and seeds; champion: base 0.7 and 0.8, new shifted by `champion_new`."""
    rows = [row(ZERO_SHOT, "food", None, 0.5, 0.7), row(ZERO_SHOT, "play", None, 0.7, 0.7)]
    for seed, shift in ((1, 0.0), (2, 0.1)):
        rows += [row("coop", "food", seed, 0.6, 0.5), row("coop", "play", seed, 0.8, 0.6)]
        for method in ("compact", "champion"):
            rows.append(row(method, "food", seed, 0.6 + shift, 0.75 + champion_new))
            rows.append(row(method, "play", seed, 0.8 + shift, 0.65 + champion_new))
    return rows


def files(
    rows: list[TestRow] | None = None, roles: dict[str, int] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    records = trial_records()
    roles = roles or {"champion": 3, "compact": 3, "coop": 0}
    tags = {"git_commit": "abc", "backbone": "b1", "data_hash": "d1", "version.torch": "2"}
    trials = {
        "study": "s",
        "tags": tags,
        "trials": [asdict(record) for record in records],
        "pruned": [],
        "failed": [],
    }
    results = {
        "study": "s",
        "winners": {role: asdict(records[number]) for role, number in roles.items()},
        "protocol": "base_to_new",
        "measurements": measurements(rows or sample_rows()),
        "provenance": {
            "git_commit": "abc",
            "backbone": "b1",
            "data_hash": "d2",
            "versions": {"torch": "2"},
        },
    }
    return trials, results


def make_report(
    rows: list[TestRow] | None = None,
    roles: dict[str, int] | None = None,
    protocol: Protocol = PROTOCOL,
    extras: Extras | None = None,
) -> Report:
    return build_report(*files(rows, roles), protocol, extras)


def finding(report: Report, start: str) -> str:
    (found,) = [
        sentence
        for sentence in report.sweep_findings + report.test_findings
        if sentence.startswith(start)
    ]
    return found


def measurements(rows: Sequence[TestRow]) -> list[dict[str, Any]]:
    """Take rows apart into the measurements that they are made of, as they stand in a file."""
    found = []
    for row in rows:
        for side, domain, value in (
            ("base", "shots", row.base),
            ("new", "shots", row.new),
            ("base", "held-out", row.held_out_base),
            ("new", "held-out", row.held_out_new),
        ):
            if value is not None:
                shots = 0 if row.seed is None else 16
                place = (row.method, row.task, shots, row.seed, row.task, side, domain, value)
                costs = row.size_bytes, row.n_parameters, row.seconds
                found.append(asdict(Measurement(*place, *costs)))
    return found
