"""A sampler with a bounded past proposes what Optuna would, as long as nothing is forgotten."""

import random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.sweep.config import SweepConfig
from pipeline.sweep.sampler import STARTUP_TRIALS, Proposals, distributions
from tests.sweep.test_study import config

Told = tuple[list[float] | None, list[float]]


def measure(config: SweepConfig, number: int, settings: dict[str, Any]) -> Told:
    """Return a trial's values and steps; in a search for the score, every third is pruned."""
    score = random.Random(str(settings)).random() + 0.1 * (settings["prompt.bits"] == 16)
    if config.objective == "pareto":
        return [score, 10.0 * settings["prompt.bits"]], []
    return (None, [score / 2]) if number % 3 == 1 else ([score], [score / 2, score])


def refused(turn: int) -> bool:
    """Some proposals are rejected."""
    return turn % 4 == 2


def ours(proposals: Proposals, config: SweepConfig, count: int) -> list[dict[str, Any]]:
    """Ask for proposals, and tell what they measure; every fifth trial fails."""
    asked = []
    for turn in range(count):
        settings = proposals.propose(explore=False)
        asked.append(settings)
        if refused(turn):
            proposals.reject()
            continue
        proposals.accept(turn, settings)
        if turn % 5 == 3:
            proposals.fail(turn)
        else:
            proposals.tell(turn, *measure(config, turn, settings))
    return asked


def optunas(config: SweepConfig, seed: int, count: int) -> list[dict[str, Any]]:
    """Do the same with a plain study."""
    directions = ["maximize", "minimize"][: 2 if config.objective == "pareto" else 1]
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(directions=directions, sampler=sampler)
    asked = []
    for turn in range(count):
        trial = study.ask(distributions(config.space))
        asked.append(dict(trial.params))
        if refused(turn) or turn % 5 == 3:
            study.tell(trial, state=TrialState.FAIL)
            continue
        values, steps = measure(config, turn, trial.params)
        for step, value in enumerate(steps, start=1):
            trial.report(value, step)
        study.tell(trial, values, state=None if values else TrialState.PRUNED)
    return asked


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_up_to_the_window_proposals_are_optunas(objective: str) -> None:
    sweep = config(objective=objective)
    plain = optunas(sweep, 7, 50)
    seen = Proposals(sweep, 7, window=30)
    assert ours(seen, sweep, 50) == plain
    assert seen.n_ended <= 30, "or nothing was shown"
    small = ours(Proposals(sweep, 7, window=12), sweep, 50)
    first = next(turn for turn, (a, b) in enumerate(zip(small, plain, strict=True)) if a != b)
    ended = sum(not refused(turn) and turn % 5 != 3 for turn in range(first))
    assert ended > 12, "forgetting began with the window full, and not before"


def test_what_was_rejected_is_forgotten_without_a_trace() -> None:
    sweep = config()
    plain, forgetful = Proposals(sweep, 7), Proposals(sweep, 7, window=6)
    for proposals in (plain, forgetful):
        ours(proposals, sweep, 7)
    for _ in range(20):
        assert plain.propose(explore=False) == forgetful.propose(explore=False)
        plain.reject()
        forgetful.reject()
    assert len(forgetful.study.trials) < len(plain.study.trials)


@pytest.mark.parametrize("objective", ["pareto", "score"])
def test_the_past_is_bounded_and_holds_the_best_the_latest_and_those_that_run(
    objective: str,
) -> None:
    sweep, window = config(objective=objective), 16
    proposals = Proposals(sweep, 1, window)
    told: dict[int, list[float]] = {}
    for turn in range(100):
        settings = proposals.propose(explore=True)
        proposals.accept(turn, settings)
        if turn == 40:
            continue  # runs on
        values, steps = measure(sweep, 0, settings)
        assert values is not None
        told[turn] = values
        proposals.tell(turn, values, steps)
        trials = proposals.study.get_trials(deepcopy=False)
        assert len([t for t in trials if t.state == TrialState.COMPLETE]) <= window
        assert len(trials) <= 2 * window + 1
        seen = [t.values for t in trials if t.state == TrialState.COMPLETE]
        latest = list(told.values())[-window // 4 :]
        assert all(values in seen for values in latest)
        if objective == "pareto":
            beaten = [v for v in told.values() if any(better(w, v) for w in told.values())]
            front = [v for v in told.values() if v not in beaten]
            assert all(v in seen for v in front[: window // 4])
        else:
            assert max(told.values()) in seen
    assert [t.params for t in trials if t.state == TrialState.RUNNING] == [
        proposals.running[40].params
    ]
    proposals.tell(40, *measure(sweep, 0, proposals.running[40].params))
    assert not proposals.running


def better(one: list[float], other: list[float]) -> bool:
    """Whether one dominates the other: no worse in both, better in one."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other
