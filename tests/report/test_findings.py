"""Sentences follow from the numbers, losses as well as gains."""

from dataclasses import replace

from pipeline.report.findings.method import best_on_test, describe, points, times, with_spread
from pipeline.report.summary import Stat, summarize_methods

from pipeline.report.findings.sweep import curve_sentence, ended_sentence, importance_sentence
from pipeline.report.report import Extras, build_report
from pipeline.sweep.importance import Importance
from pipeline.training.records import FailedTrial
from pipeline.training.refit import ZERO_SHOT
from tests.helpers.report_data import (
    PROTOCOL,
    files,
    finding,
    history,
    make_report,
    sample_rows,
    trial_records,
)


def test_a_win_on_both_sides_is_told() -> None:
    report = make_report(sample_rows(champion_new=0.1))
    text = finding(report, "Champion against zero-shot")
    assert "wins on base classes (+15.0 points; ahead in 2 of 2 seeds and 2 of 2 tasks)" in text
    assert "wins on new classes (+10.0 points" in text
    assert "What it gains" not in text


def test_a_loss_on_new_classes_is_told() -> None:
    report = make_report(sample_rows(champion_new=-0.05))
    text = finding(report, "Champion against zero-shot")
    assert "loses on new classes (−5.0 points; ahead in 0 of 2 seeds" in text
    assert "wins on harmonic mean" in text
    assert "gains on base classes outweighs what it loses on new ones" in text


def test_zero_shot_wins_when_nothing_beats_it() -> None:
    report = make_report(sample_rows(champion_new=-0.4))
    text = finding(report, "Champion against zero-shot")
    assert "loses on harmonic mean" in text
    assert "does not outweigh" in text
    assert report.headline.startswith("On test images, zero-shot")
    assert "no tuned prompt" in report.headline


def test_a_tie_is_no_win() -> None:
    text = finding(make_report(), "Champion against zero-shot")
    assert "ties on new classes (0.0 points" in text
    rows = [r for r in sample_rows() if r.method == ZERO_SHOT]
    rows += [replace(r, method="champion", seed=1) for r in rows]
    assert best_on_test(summarize_methods(rows)).method == ZERO_SHOT


def test_a_champion_that_is_not_the_best_on_test_is_told() -> None:
    rows = [
        replace(r, base=0.9, new=0.9, harmonic_mean=0.9) if r.method == "coop" else r
        for r in sample_rows()
    ]
    report = make_report(rows)
    assert report.headline.startswith("On test images, CoOp (90.0 ± 0.0 %)")
    assert "The champion of the validation data is at −17.7 points from it." in report.headline


def test_one_trial_in_two_roles_is_compared_once() -> None:
    report = make_report()
    assert not [s for s in report.test_findings if s.startswith("Compact against")]
    assert "the champion itself" in finding(report, "Compact, the smallest")
    report = make_report(roles={"champion": 0, "compact": 3, "coop": 0})
    assert "no trial of any other kind scored higher" in finding(report, "Plain CoOp")
    assert finding(report, "Compact against zero-shot")


def test_what_was_not_tried_is_not_called_worse() -> None:
    trials, results = files(roles={"champion": 0, "compact": 0, "coop": 0})
    trials["trials"] = trials["trials"][:1]
    text = finding(build_report(trials, results, PROTOCOL), "Plain CoOp")
    assert "no low-rank or quantized prompt was tried" in text


def test_a_missing_coop_is_told() -> None:
    rows = [r for r in sample_rows() if r.method != "coop"]
    report = make_report(rows, {"champion": 3, "compact": 3})
    assert finding(report, "No trial is plain CoOp")
    assert "coop" not in report.methods


def test_held_out_styles_are_left_out_when_there_are_none() -> None:
    assert "+15.0 points on base classes (65.0" in finding(make_report(), "In held-out styles")
    rows = [replace(r, held_out_base=None, held_out_new=None) for r in sample_rows()]
    assert not [s for s in make_report(rows).test_findings if s.startswith("In held-out")]


def test_what_rank_does_comes_from_the_trials() -> None:
    text = finding(make_report(), "Over rank")
    assert "highest at 1" in text
    assert "lowest at 2 (58.3 %, trials: 1)" in text


def test_words() -> None:
    assert describe(trial_records()[3].settings) == ("rank 1, 2 bits, 4 context tokens, lr 0.3")
    assert points(-0.0001) == "0.0"
    assert with_spread(Stat((0.7, 0.8))) == "75.0 ± 7.1"
    assert times(100, 400) == "4.0 times smaller"
    assert times(400, 100) == "4.0 times larger"
    assert times(7, 7) == "equally large"


def test_how_trials_ended_is_told() -> None:
    trials = trial_records()
    assert ended_sentence(trials, [], []) == (
        "Of 5 trials, 5 ran to their end; none was stopped early and none failed."
    )
    pruned = [replace(trials[0], number=5, history=history(0.5, 0.5, 1))]
    failed = [FailedTrial(6, {}, "OSError: gone")]
    assert ended_sentence(trials, pruned, failed) == (
        "Of 7 trials, 5 ran to their end, 1 were stopped after 1 round because others were ahead "
        "(successive halving) and 1 failed."
    )
    pruned.append(replace(trials[1], number=7))
    assert "2 were stopped after 1 to 3 rounds" in ended_sentence(trials, pruned, [])


def test_a_sweep_for_score_alone_is_not_said_to_look_for_size() -> None:
    told = finding(make_report(extras=Extras(objective="score")), "5 trials were scored")
    assert "the search looked for score alone" in told
    assert "score alone" not in finding(make_report(), "5 trials were scored")


def test_what_training_does_to_the_champion_is_told() -> None:
    text = curve_sentence(trial_records()[3])
    assert "base changes by +4.0, its new by \N{MINUS SIGN}10.0" in text
    assert "its score was highest after round 1" in text
    rising = replace(trial_records()[3], history=history(0.8, 0.7)[::-1])
    assert "highest at the end" in curve_sentence(rising)
    assert "measured once" in curve_sentence(replace(rising, history=history(0.8, 0.7, 1)))


def test_importances_that_chance_gives_are_no_evidence() -> None:
    chance = [Importance("train.lr", 0.6, 0.7), Importance("prompt.bits", 0.4, 0.4)]
    assert "no evidence" in importance_sentence(chance, 24)
    clear = [Importance("train.lr", 0.6, 0.5), chance[1]]
    text = importance_sentence(clear, 24)
    assert "train.lr (60 % of the importance; chance gives up to 50 %)" in text
    assert "no more than chance: prompt.bits" in text
    assert "too few" in importance_sentence([], 3)
