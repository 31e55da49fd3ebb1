"""Every combination of a grid exactly once."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.sweep.config import Range
from tests.helpers.sweeps import search
from tests.sweep.test_study import config, run

AXES = {
    "prompt.rank": ["full", 1, 2],
    "prompt.bits": [1, 16],
    "train.lr": {"low": 0.01, "high": 1.0, "log": True, "steps": 3},
}


def grid(**changed: Any) -> Any:
    return config(**{"sampler": "grid", "n_trials": None, "space": AXES, "first": [], **changed})


@pytest.mark.parametrize("log", [False, True])
def test_a_range_on_a_grid_has_equal_steps_and_exact_ends(log: bool) -> None:
    points = [float(point) for point in Range(low=0.003, high=0.7, log=log, steps=7).points]
    assert (points[0], points[-1], len(points)) == (0.003, 0.7, 7)
    places = [math.log(point) if log else point for point in points]
    steps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 6)


def test_all_feasible_combinations_are_tried_once_across_interruptions(tmp_path: Path) -> None:
    axes = {**AXES, "prompt.rank": ["full", 1, 3]}  # 3 is more than the two tokens
    first = [{"prompt.rank": 1, "prompt.bits": 16, "train.lr": 1.0}]
    sweep, asked = grid(space=axes, first=first), []
    for _ in range(6):  # drivers that stop after three trials
        study = search(tmp_path / "study.db", "toy", sweep)
        asked += [tuple(trial.settings.values()) for trial in run(study, 3)]
    assert study.exhausted
    every = {tuple(own.values()) for own in sweep.grid() if own["prompt.rank"] != 3}
    assert len(every) == 12
    assert sorted(asked, key=str) == sorted(every, key=str)
    assert asked[0] == tuple(first[0].values())
    numbers = [found.number for found in study.results().trials]
    assert numbers == list(range(12)), "what is passed over is not written"


def test_a_grid_has_an_order_and_may_be_cut(tmp_path: Path) -> None:
    asked = run(search(tmp_path / "a.db", "toy", grid()), 100)
    assert [trial.settings for trial in asked] == list(grid().grid())
    cut = run(search(tmp_path / "b.db", "toy", grid(n_trials=4)), 100)
    assert cut == asked[:4]


def test_chance_alone_ignores_results(tmp_path: Path) -> None:
    sweep = config(sampler="random", n_trials=15)
    one = run(search(tmp_path / "a.db", "toy", sweep), 15)
    study, two = search(tmp_path / "b.db", "toy", sweep), []
    while trial := study.ask():
        study.tell_failed(trial.number, "nothing is learned from this")
        two.append(trial)
    assert one == two
    assert len({str(trial.settings) for trial in one}) == 15


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampler": "tpe"}, "n_trials: got null"),
        ({"sampler": "tpe", "n_trials": 3}, r"space\.train\.lr: steps are for a grid"),
        ({"space": {"train.lr": {"low": 1, "high": 2}}}, r"space\.train\.lr: a range needs steps"),
        ({"space": {"train.lr": {"low": 1, "high": 2, "steps": 1}}}, "steps"),
        ({"sampler": "guess"}, "sampler"),
    ],
)
def test_grids_without_end_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        grid(**changed)
