import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import measurements

from pipeline.evaluate import ZERO_SHOT, TestRow
from pipeline.findings import best_on_test, describe, points, times, with_spread
from pipeline.metrics import harmonic_mean
from pipeline.params import load_params
from pipeline.report import (
    Picture,
    Protocol,
    Report,
    build_report,
    metrics,
    render,
    task_points,
    trial_points,
)
from pipeline.selection import TrialRecord
from pipeline.summary import METHODS, Stat, axis_table, check_rows, summarize_methods
from stages.report import protocol

PROTOCOL = Protocol(
    "emoji", ["noto", "twemoji"], ["emojione"], ["food", "play"], 16, (16, 16), 2, 0.01
)
SETTINGS = [("full", 16, 0.1), ("full", 2, 0.1), (1, 16, 0.01), (1, 2, 0.3), (2, 2, 0.02)]
SCORES = [(0.8, 0.6), (0.7, 0.6), (0.6, 0.6), (0.8, 0.7), (0.7, 0.5)]
SIZES = [1024, 136, 264, 49, 82]


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
            [],
            1.5,
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
    trials = {"study": "s", "tags": tags, "trials": [asdict(record) for record in records]}
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
) -> Report:
    return build_report(*files(rows, roles), protocol)


def finding(report: Report, start: str) -> str:
    (found,) = [sentence for sentence in report.findings if sentence.startswith(start)]
    return found


class TestSummary:
    def test_means_and_spreads_by_hand(self) -> None:
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

    def test_mean_of_harmonic_means_is_never_above_that_of_means(self) -> None:
        for method in make_report().methods.values():
            pairs = zip(method.task_harmonic_mean.values, method.harmonic_mean.values, strict=True)
            assert all(of_tasks <= of_means + 1e-12 for of_tasks, of_means in pairs)

    def test_zero_shot_has_no_spread(self) -> None:
        zero = make_report().methods[ZERO_SHOT]
        assert zero.base.spread is None
        assert with_spread(zero.base) == "60.0"

    def test_methods_come_in_the_order_of_the_field(self) -> None:
        present = {row.method for row in sample_rows()}
        found = list(summarize_methods(sample_rows()[::-1]))
        assert found == [method for method in METHODS if method in present]

    def test_held_out_is_the_mean_of_the_tasks_that_have_it(self) -> None:
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
    def sample_rows_that_make_an_unfair_mean_are_refused(self, damage: str) -> None:
        rows = sample_rows()
        rows = rows[:-1] if damage == "missing" else [*rows, rows[-1]]
        with pytest.raises(ValueError, match="champion has"):
            check_rows(rows)

    def test_results_of_another_study_are_refused(self) -> None:
        trials, results = files()
        with pytest.raises(ValueError, match="dvc repro evaluate"):
            build_report(trials, results | {"study": "other"}, PROTOCOL)

    def test_axis_table_averages_trials_by_value(self) -> None:
        one, two, full = axis_table(trial_records(), "prompt.rank")
        assert [row.value for row in (one, two, full)] == ["1", "2", "full"]
        assert (one.n_trials, two.n_trials, full.n_trials) == (2, 1, 2)
        assert one.base == pytest.approx(0.7)
        assert full.new == pytest.approx(0.6)
        assert one.best == pytest.approx(harmonic_mean(0.8, 0.7))
        assert axis_table(trial_records(), "prompt.unknown") == []


class TestSentences:
    def test_a_win_on_both_sides_is_told(self) -> None:
        report = make_report(sample_rows(champion_new=0.1))
        text = finding(report, "Champion against zero-shot")
        assert "wins on base classes (+15.0 points; ahead in 2 of 2 seeds and 2 of 2 tasks)" in text
        assert "wins on new classes (+10.0 points" in text
        assert "What it gains" not in text

    def test_a_loss_on_new_classes_is_told(self) -> None:
        report = make_report(sample_rows(champion_new=-0.05))
        text = finding(report, "Champion against zero-shot")
        assert "loses on new classes (−5.0 points; ahead in 0 of 2 seeds" in text
        assert "wins on harmonic mean" in text
        assert "gains on base classes outweighs what it loses on new ones" in text

    def test_zero_shot_wins_when_nothing_beats_it(self) -> None:
        report = make_report(sample_rows(champion_new=-0.4))
        text = finding(report, "Champion against zero-shot")
        assert "loses on harmonic mean" in text
        assert "does not outweigh" in text
        assert report.headline.startswith("On test images, zero-shot")
        assert "no tuned prompt" in report.headline

    def test_a_tie_is_no_win(self) -> None:
        text = finding(make_report(), "Champion against zero-shot")
        assert "ties on new classes (0.0 points" in text
        rows = [r for r in sample_rows() if r.method == ZERO_SHOT]
        rows += [replace(r, method="champion", seed=1) for r in rows]
        assert best_on_test(summarize_methods(rows)).method == ZERO_SHOT

    def test_a_champion_that_is_not_the_best_on_test_is_told(self) -> None:
        rows = [
            replace(r, base=0.9, new=0.9, harmonic_mean=0.9) if r.method == "coop" else r
            for r in sample_rows()
        ]
        report = make_report(rows)
        assert report.headline.startswith("On test images, CoOp (90.0 ± 0.0 %)")
        assert "The champion of the validation data is at −17.7 points from it." in report.headline

    def test_one_trial_in_two_roles_is_compared_once(self) -> None:
        report = make_report()
        assert not [s for s in report.findings if s.startswith("Compact against")]
        assert "the champion itself" in finding(report, "Compact, the smallest")
        report = make_report(roles={"champion": 0, "compact": 3, "coop": 0})
        assert "no trial of any other kind scored higher" in finding(report, "Plain CoOp")
        assert finding(report, "Compact against zero-shot")

    def test_what_was_not_tried_is_not_called_worse(self) -> None:
        trials, results = files(roles={"champion": 0, "compact": 0, "coop": 0})
        trials["trials"] = trials["trials"][:1]
        text = finding(build_report(trials, results, PROTOCOL), "Plain CoOp")
        assert "no low-rank or quantized prompt was tried" in text

    def test_a_missing_coop_is_told(self) -> None:
        rows = [r for r in sample_rows() if r.method != "coop"]
        report = make_report(rows, {"champion": 3, "compact": 3})
        assert finding(report, "No trial is plain CoOp")
        assert "coop" not in report.methods

    def test_held_out_styles_are_left_out_when_there_are_none(self) -> None:
        assert "+15.0 points on base classes (65.0" in finding(make_report(), "In held-out styles")
        rows = [replace(r, held_out_base=None, held_out_new=None) for r in sample_rows()]
        assert not [s for s in make_report(rows).findings if s.startswith("In held-out")]

    def test_what_rank_does_comes_from_the_trials(self) -> None:
        text = finding(make_report(), "Over rank")
        assert "highest at 1" in text
        assert "lowest at 2 (58.3 %, trials: 1)" in text

    def test_words(self) -> None:
        assert describe(trial_records()[3].settings) == ("rank 1, 2 bits, 4 context tokens, lr 0.3")
        assert points(-0.0001) == "0.0"
        assert with_spread(Stat((0.7, 0.8))) == "75.0 ± 7.1"
        assert times(100, 400) == "4.0 times smaller"
        assert times(400, 100) == "4.0 times larger"
        assert times(7, 7) == "equally large"


class TestPages:
    @pytest.mark.parametrize("template", ["report.md.j2", "report.html.j2"])
    def test_every_method_and_task_is_in_the_tables(self, template: str) -> None:
        page = render(template, make_report(), [Picture("size", "T", "C", b"<svg/>")])
        for label in (METHODS[row.method] for row in sample_rows()):
            assert len(re.findall(f"(</i>|\\| ){label}", page)) >= 3  # overall, two tasks
        for text in ("75.0 ± 7.1", "food", "play", "abc"):
            assert text in page

    @pytest.mark.parametrize("template", ["report.md.j2", "report.html.j2"])
    def test_the_caveats_are_on_both_pages(self, template: str) -> None:
        page = render(template, make_report(), [])
        for text in (
            "Selection used validation data only",
            "one drawing per style",
            "the same noto and twemoji drawings in other poses",
            "Held-out style: emojione",
            "fixed cached views: 2",
            "averaged over tasks, computed for every seed",
            "16 shots of each class, of 16 training images. Every seed therefore has the same",
        ):
            assert text in page

    def test_caveats_follow_the_protocol(self) -> None:
        other = replace(
            PROTOCOL, source="folder", held_out_styles=[], shots=4, shots_available=(3, 20)
        )
        page = render("report.md.j2", make_report(protocol=other), [])
        assert "No style is held out" in page
        assert "4 shots of each class, of 3 to 20 training images" in page
        assert "has the same shots" not in page
        assert "drawing" not in page

    def test_the_html_page_loads_nothing(self) -> None:
        page = render("report.html.j2", make_report(), [Picture("a", "T", "C", b"<svg/>")])
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
        assert not re.findall(r"https?://|@import|url\(|<script|<link", page)
        assert "data:image/svg+xml;base64,PHN2Zy8+" in page

    def test_html_is_escaped(self) -> None:
        trials, results = files()
        trials["tags"]["git_commit"] = "<b>"
        page = render("report.html.j2", build_report(trials, results, PROTOCOL), [])
        assert "<b>abc" not in page
        assert "&lt;b&gt;" in page

    def test_provenance_is_told_once_where_sweep_and_test_agree(self) -> None:
        lines = make_report().provenance
        assert lines["git commit"] == "abc"
        assert lines["versions"] == "torch 2"
        assert (lines["data hash (sweep)"], lines["data hash (test)"]) == ("d1", "d2")


class TestProtocol:
    def test_what_is_said_of_the_data_comes_from_the_results(self) -> None:
        params = load_params(Path(__file__).parent.parent / "params.yaml")
        drawn = {"shot_domains": ["twemoji", "noto"], "held_out_domains": ["emojione"]}
        found = protocol(params, {"data": {"food": {**drawn, "fewest": 16, "most": 16}}})
        assert (found.shot_styles, found.held_out_styles) == (["noto", "twemoji"], ["emojione"])
        assert (found.source, found.shots_available) == ("emoji", (16, 16))
        photos = {"shot_domains": ["all"], "held_out_domains": []}
        data = {
            "pets": {**photos, "fewest": 3, "most": 9},
            "cars": {**photos, "fewest": 5, "most": 40},
        }
        found = protocol(params, {"data": data})
        assert (found.shot_styles, found.held_out_styles) == (["all"], [])
        assert found.shots_available == (3, 40)


class TestForDvc:
    def test_metrics_are_flat_rounded_and_in_unit_range(self) -> None:
        found = metrics(make_report())
        assert found["champion"]["base"] == 0.75
        assert found["champion"]["harmonic_mean"] == 0.7233
        assert found["champion"]["size_bytes"] == 49
        assert "harmonic_mean_spread" not in found[ZERO_SHOT]

    def test_plots_are_flat_and_complete(self) -> None:
        trials, tasks = trial_points(make_report()), task_points(make_report())
        assert len(trials) == 5
        assert trials[3]["role"] == "champion"
        assert {"bytes", "score", "base", "new", "rank", "bits", "n_ctx", "lr"} <= set(trials[0])
        assert len(tasks) == len({row.method for row in sample_rows()}) * 2
        flat = [value for point in trials + tasks for value in point.values()]
        assert all(isinstance(value, str | int | float) for value in flat)
