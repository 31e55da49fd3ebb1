"""A sampler with a bounded past proposes what Optuna would, as long as nothing is dropped."""

import random
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.sweep.config import SweepConfig
from pipeline.sweep.sampler import STARTUP_TRIALS, Sampler, directions, distributions
from pipeline.training.records import TrialRecord
from tests.helpers.records import ORIGIN
from tests.sweep.test_study import config

LAG = 4


def lagged(objective: str = "pareto") -> SweepConfig:
    return config(objective=objective, lag=LAG, first=[])


def measure(number: int, settings: dict[str, Any]) -> TrialRecord:
    """Return what a trial measures."""
    score = random.Random(str(settings)).random() + 0.1 * (settings["prompt.bits"] == 16)
    history = [{"score": score / 2}, {"score": score}]
    size = 10 * settings["prompt.bits"]
    return TrialRecord(number, settings, score, score, score, size, {}, history, 1.0, ORIGIN)


def is_pruned(sweep: SweepConfig, number: int) -> bool:
    """In a search for the score, every third trial is stopped early."""
    return sweep.objective == "score" and number % 3 == 1


def ended(sweep: SweepConfig, number: int, settings: dict[str, Any]) -> TrialRecord:
    record = measure(number, settings)
    if not is_pruned(sweep, number):
        return record
    return replace(record, history=record.history[:1], score=record.history[0]["score"])


def ours(sweep: SweepConfig, count: int, window: int) -> list[dict[str, Any]]:
    """Return proposals; results are shown with a lag, and every second proposal is rejected."""
    sampler, asked = Sampler(sweep, window), []
    for number in range(count):
        if (shown := number - LAG) >= 0:
            own = asked[shown]
            sampler.show(own, ended(sweep, shown, own), is_pruned(sweep, shown))
        proposals = sampler.propose(number, asked[-LAG + 1 :] if number >= LAG else asked)
        asked.append([next(proposals) for _ in range(1 + number % 2)][-1])
    return asked


def optunas(sweep: SweepConfig, asked: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """Return what Optuna proposes with a plain study of the same past."""
    seeds, space = random.Random(f"{sweep.sampler_seed}/{number}"), distributions(sweep.space)
    seed, other = (seeds.getrandbits(32) for _ in range(2))
    sampler: Any = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    n_shown = number - LAG + 1
    if n_shown < STARTUP_TRIALS:
        sampler, n_shown = optuna.samplers.RandomSampler(seed=other), 0
    study = optuna.create_study(directions=directions(sweep), sampler=sampler)
    for place, own in enumerate(asked[:number]):
        study.enqueue_trial(own)
        trial, record = study.ask(space), ended(sweep, place, own)
        if place >= n_shown:
            continue
        if sweep.objective == "score":
            for step, measured in enumerate(record.history, start=1):
                trial.report(measured["score"], step)
        if is_pruned(sweep, place):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [record.score, float(record.size_bytes)][: len(directions(sweep))])
    for _ in range(number % 2):
        study.tell(study.ask(space), state=TrialState.FAIL)
    return dict(study.ask(space).params)


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_up_to_the_window_proposals_are_optunas(objective: str) -> None:
    sweep = lagged(objective)
    asked = ours(sweep, 40, window=40)
    assert [optunas(sweep, asked, number) for number in range(40)] == asked
    small = ours(sweep, 40, window=12)
    first = next(turn for turn, (a, b) in enumerate(zip(small, asked, strict=True)) if a != b)
    assert first - LAG >= 12, "trials are dropped when the window is full, and not before"


def test_proposals_after_rejections_are_new_and_then_random() -> None:
    sampler = Sampler(lagged())
    for number in range(20):
        settings = next(sampler.propose(number, []))
        sampler.show(settings, measure(number, settings), False)
    proposed = [str(settings) for settings, _ in zip(sampler.propose(20, []), range(20))]  # noqa: B905 (endless)
    assert len(set(proposed)) == 20
    assert proposed == [str(own) for own, _ in zip(sampler.propose(20, []), range(20))]  # noqa: B905 (as above)


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_the_past_is_bounded_and_holds_the_best_and_the_latest(objective: str) -> None:
    sweep, window = lagged(objective), 16
    sampler, told = Sampler(sweep, window), dict[int, TrialRecord]()
    for number in range(100):
        settings = next(sampler.propose(number, []))
        told[number] = measure(number, settings)
        sampler.show(settings, told[number], False)
        seen = [record for record, _ in sampler._past]
        assert len(seen) <= window
        assert all(record in seen for record in list(told.values())[-window // 4 :])
        if objective == "pareto":
            beaten = [one for one in told.values() if any(better(o, one) for o in told.values())]
            front = [one for one in told.values() if one not in beaten]
            assert all(record in seen for record in front[: window // 4])
        else:
            assert max(told.values(), key=lambda one: one.score) in seen


def better(one: TrialRecord, other: TrialRecord) -> bool:
    """Whether one dominates the other: no worse in both, better in one."""
    a, b = (one.score, -one.size_bytes), (other.score, -other.size_bytes)
    return a[0] >= b[0] and a[1] >= b[1] and a != b
