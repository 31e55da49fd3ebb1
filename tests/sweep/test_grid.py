"""Every combination of a grid exactly once."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.sweep.config import Range
from pipeline.sweep.study import Search
from tests.sweep.test_study import accept, config, record, run

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
    def feasible(settings: dict[str, Any]) -> str | None:
        return "no" if settings["prompt.rank"] == 2 and settings["prompt.bits"] == 1 else None

    first = [{"prompt.rank": 1, "prompt.bits": 16, "train.lr": 1.0}]
    sweep, asked = grid(first=first), []
    for _ in range(8):  # drivers that stop after three trials
        search = Search(tmp_path / "study.db", "toy", sweep)
        for _ in range(3):
            trial = search.ask(feasible)
            if trial is None:
                break
            search.tell(trial[0], record(*trial))
            asked.append(tuple(trial[1].values()))
    assert search.exhausted
    every = {tuple(settings.values()) for settings in sweep.grid() if not feasible(settings)}
    assert len(every) == 15
    assert sorted(asked, key=str) == sorted(every, key=str)
    assert asked[0] == tuple(first[0].values())
    numbers = [found.number for found in search.finished()]
    assert numbers == list(range(15)), "what is passed over is not written"


def test_a_grid_has_an_order_and_may_be_cut(tmp_path: Path) -> None:
    asked = run(Search(tmp_path / "a.db", "toy", grid()), 100)
    assert [settings for _, settings in asked] == list(grid().grid())
    cut = run(Search(tmp_path / "b.db", "toy", grid(n_trials=4)), 100)
    assert cut == asked[:4]


def test_chance_alone_ignores_what_was_found(tmp_path: Path) -> None:
    sweep = config(sampler="random", n_trials=15)
    one = [settings for _, settings in run(Search(tmp_path / "a.db", "toy", sweep), 15)]
    search, two = Search(tmp_path / "b.db", "toy", sweep), []
    while asked := search.ask(accept):
        search.tell_failed(asked[0], "nothing is learned from this")
        two.append(asked[1])
    assert one == two
    assert len({str(settings) for settings in one}) == 15


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampler": "tpe"}, "n_trials: found null"),
        ({"sampler": "tpe", "n_trials": 3}, r"space\.train\.lr: steps are for a grid"),
        ({"space": {"train.lr": {"low": 1, "high": 2}}}, r"space\.train\.lr: a range needs steps"),
        ({"space": {"train.lr": {"low": 1, "high": 2, "steps": 1}}}, "steps"),
        ({"sampler": "guess"}, "sampler"),
    ],
)
def test_grids_without_end_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        grid(**changed)
