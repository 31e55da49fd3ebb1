"""Means, spreads and tables, by hand."""

from dataclasses import replace

import pytest
from pipeline.report.findings.method import with_spread
from pipeline.report.summary import METHODS, axis_table, check_rows, summarize_methods

from pipeline.report.report import build_report
from pipeline.training.metrics import harmonic_mean
from pipeline.training.refit import ZERO_SHOT
from tests.helpers.report_data import PROTOCOL, files, make_report, sample_rows, trial_records


def test_means_and_spreads_by_hand() -> None:
    champion = make_report().methods["champion"]
    # base per seed: (0.6 + 0.8) / 2 = 0.7 and (0.7 + 0.9) / 2 = 0.8; new: 0.7, 0.7
    assert champion.base.values == pytest.approx((0.7, 0.8))
    assert champion.base.mean == pytest.approx(0.75)
    assert champion.base.spread == pytest.approx(0.1 / 2**0.5)
    assert champion.new.spread == pytest.approx(0, abs=1e-12)
    assert champion.harmonic_mean.values == pytest.approx((0.7, 2 * 0.8 * 0.7 / 1.5))
    tasks = (2 * 0.6 * 0.75 / 1.35 + 2 * 0.8 * 0.65 / 1.45) / 2
    assert champion.task_harmonic_mean.values[0] == pytest.approx(tasks)
    assert champion.held_out_base is not None
    assert champion.held_out_base.mean == pytest.approx(0.65)


def test_mean_of_harmonic_means_is_never_above_that_of_means() -> None:
    for method in make_report().methods.values():
        pairs = zip(method.task_harmonic_mean.values, method.harmonic_mean.values, strict=True)
        assert all(of_tasks <= of_means + 1e-12 for of_tasks, of_means in pairs)


def test_zero_shot_has_no_spread() -> None:
    zero = make_report().methods[ZERO_SHOT]
    assert zero.base.spread is None
    assert with_spread(zero.base) == "60.0"


def test_methods_come_in_the_order_of_the_field() -> None:
    present = {row.method for row in sample_rows()}
    found = list(summarize_methods(sample_rows()[::-1]))
    assert found == [method for method in METHODS if method in present]


def test_held_out_is_the_mean_of_the_tasks_that_have_it() -> None:
    rows = [
        replace(r, held_out_base=None, held_out_new=None) if r.task == "play" else r
        for r in sample_rows()
    ]
    stat = summarize_methods(rows)[ZERO_SHOT].held_out_base
    assert stat is not None
    assert stat.mean == pytest.approx(0.4)
    none = [replace(r, held_out_base=None, held_out_new=None) for r in sample_rows()]
    assert summarize_methods(none)["champion"].held_out_new is None
    assert with_spread(None) == "–"


@pytest.mark.parametrize("damage", ["missing", "doubled"])
def test_rows_that_make_an_unfair_mean_are_refused(damage: str) -> None:
    rows = sample_rows()
    rows = rows[:-1] if damage == "missing" else [*rows, rows[-1]]
    with pytest.raises(ValueError, match="champion has"):
        check_rows(rows)


def test_results_of_another_study_are_refused() -> None:
    trials, results = files()
    with pytest.raises(ValueError, match="dvc repro evaluate"):
        build_report(trials, results | {"study": "other"}, PROTOCOL)


def test_axis_table_averages_trials_by_value() -> None:
    one, two, full = axis_table(trial_records(), "prompt.rank")
    assert [row.value for row in (one, two, full)] == ["1", "2", "full"]
    assert (one.n_trials, two.n_trials, full.n_trials) == (2, 1, 2)
    assert one.base == pytest.approx(0.7)
    assert full.new == pytest.approx(0.6)
    assert one.best == pytest.approx(harmonic_mean(0.8, 0.7))
    assert axis_table(trial_records(), "prompt.unknown") == []
