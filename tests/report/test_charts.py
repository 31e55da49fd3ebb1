"""Live charts are real Vega-Lite and show every row; points are flat."""

import json
from dataclasses import replace

import pytest
import vl_convert
from pipeline.report.points import (
    MOST_CURVES,
    accuracy_points,
    curve_points,
    curved,
    importance_points,
    rank_bits_points,
    roles_of,
    trial_points,
)

from pipeline.report.charts import live_charts, script
from pipeline.report.report import Extras
from pipeline.sweep.importance import Importance
from tests.helpers.report_data import history, make_report, trial_records


def test_points_are_flat_and_complete() -> None:
    report = make_report(extras=Extras(importances=[Importance("train.lr", 0.6, 0.7)]))
    trials, tests = trial_points(report), accuracy_points(report)
    assert len(trials) == 5
    assert trials[3]["role"] == "champion = compact"
    assert {"bytes", "score", "base", "new", "rank", "bits", "n_ctx", "lr"} <= set(trials[0])
    assert len(tests) == 3 * len(report.methods) * 2  # base, new and HM of two tasks
    assert sum(row["trials"] for row in rank_bits_points(report)) == 5
    every = [*trials, *tests, *curve_points(report), *rank_bits_points(report)]
    flat = [value for point in [*every, *importance_points(report)] for value in point.values()]
    assert all(isinstance(value, str | int | float) for value in flat)


def test_spread_stands_on_both_sides_of_the_mean() -> None:
    for row in accuracy_points(make_report()):
        assert row["high"] - row["accuracy"] == pytest.approx(row["spread"], abs=0.011)
        assert row["accuracy"] - row["low"] == pytest.approx(row["spread"], abs=0.011)


def test_a_trial_has_one_name_with_all_its_roles() -> None:
    report = make_report(extras=Extras(named={"low_rank_quantized": 3, "mine": 1, "coop": 0}))
    assert roles_of(report) == {
        3: "champion = compact = low-rank quantized",
        0: "CoOp",
        1: "mine",
    }


def test_only_the_best_and_the_named_of_many_trials_have_curves() -> None:
    report, one = make_report(), trial_records()[0]
    many = [replace(one, number=10 + i, score=i / 1000) for i in range(2 * MOST_CURVES)]
    stopped = replace(one, number=9, score=0.9, history=history(0.5, 0.5, 2))
    drawn = curved(replace(report, trials=[*report.trials, *many], pruned=[stopped]))
    numbers = {trial.number for trial in drawn}
    assert len(drawn) == MOST_CURVES
    assert {0, 3, 9} <= numbers
    assert min(trial.score for trial in drawn if trial.number >= 10) >= MOST_CURVES / 1000


@pytest.mark.filterwarnings("error")
def test_charts_compile_and_hold_every_row() -> None:
    stopped = replace(trial_records()[0], number=9, history=history(0.5, 0.5, 2))
    report = replace(make_report(), pruned=[stopped])
    charts = live_charts(report)
    assert set(charts) == {"size", "tasks", "curves"}
    for chart in charts.values():
        assert vl_convert.vegalite_to_vega(json.loads(json.dumps(chart)), vl_version="6.4")["marks"]
    assert len(charts["size"]["data"]["values"]) == 5
    assert len(charts["curves"]["data"]["values"]) == 5 * 3 + 2


@pytest.mark.parametrize(
    ("n_rounds", "ticks"), [(2, [1, 2]), (3, [1, 2, 3]), (50, [*range(1, 51, 5)])]
)
def test_the_rounds_of_the_curves_are_whole_numbers(n_rounds: int, ticks: list[int]) -> None:
    trials = [replace(trial_records()[0], history=history(0.5, 0.5, n_rounds))]
    chart = live_charts(replace(make_report(), trials=trials))["curves"]
    assert chart["layer"][0]["encoding"]["x"]["axis"]["values"] == ticks


def test_the_front_of_the_chart_reaches_the_largest_trial() -> None:
    report = make_report()
    line = live_charts(report)["size"]["layer"][0]["data"]["values"]
    front = [(trial.size_bytes, 100 * trial.score) for trial in report.front]
    assert [(point["bytes"], point["score"]) for point in line[:-1]] == front
    assert line[-1] == {"bytes": 1024, "score": front[-1][1]}


def test_the_script_draws_and_cannot_end_its_element() -> None:
    assert "window.drawChart" in script()
    assert "</script" not in script()
