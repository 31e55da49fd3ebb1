"""Importances find what matters, and say what chance gives."""

import random

import pytest

from pipeline.sweep.config import Choice, Range
from pipeline.sweep.importance import FEWEST, importances
from pipeline.training.records import TrialRecord
from tests.helpers.records import ORIGIN
from tests.helpers.report_data import history

SPACE = {
    "prompt.rank": Choice(["full", 1, 2]),
    "train.lr": Range(low=0.001, high=0.1, log=True),
}


def trials(n: int, depends: bool) -> list[TrialRecord]:
    """Return random trials whose score is that of their rank, or of nothing."""
    rng, found = random.Random(3), []
    for number in range(n):
        settings = {name: axis.draw(rng) for name, axis in SPACE.items()}
        noise = rng.random()
        score = (settings["prompt.rank"] == 1) + 0.01 * noise if depends else noise
        settings["prompt.bits"] = 4  # no axis
        found.append(TrialRecord(number, settings, score, 0, 0, 1, {}, history(0, 0), 1.0, ORIGIN))
    return found


def test_the_axis_that_decides_is_clear_and_first() -> None:
    first, second = importances(trials(60, depends=True), SPACE)
    assert first.axis == "prompt.rank"
    assert first.is_clear
    assert not second.is_clear
    assert first.share + second.share == pytest.approx(1)


def test_scores_that_depend_on_nothing_are_not_clear() -> None:
    assert not any(one.is_clear for one in importances(trials(60, depends=False), SPACE))


def test_the_same_trials_give_the_same_numbers() -> None:
    own = trials(FEWEST, depends=True)
    assert importances(own, SPACE) == importances(own, SPACE)


def test_few_trials_say_nothing() -> None:
    assert importances(trials(FEWEST - 1, depends=True), SPACE) == []


def test_settings_outside_of_the_space_widen_it() -> None:
    own = trials(20, depends=True)
    own[0].settings.update({"prompt.rank": 4, "train.lr": 0.5})
    assert {one.axis for one in importances(own, SPACE)} == set(SPACE)
