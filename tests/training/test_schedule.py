"""Learning rates: CoOp's as its public code runs them, and few that sum to as much."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.prompts.config import PromptConfig
from pipeline.training.config import CoopConfig, FastConfig
from pipeline.training.schedule import coop_rates, fast_rates, step_rates
from tests.helpers.reference import coop_schedule
from tests.helpers.toy import BOOST, train_config

FAST = [
    FastConfig(
        stride=stride, boost=BOOST, min_steps=min_steps, warmup_steps=warmup_steps, decay=decay
    )
    for stride in (1, 40, 10**6)
    for min_steps in (1, 20)
    for warmup_steps in (0, 5)
    for decay in (0.0, 0.3, 1.0)
]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
@pytest.mark.parametrize("n_images", [1, 4, 31, 32, 33, 100])
@pytest.mark.parametrize(
    ("epochs", "shots"),
    [("auto", 1), ("auto", 2), ("auto", 7), ("auto", 8), ("auto", 16), (1, 1), (2, 16), (30, 1)],
)
def test_coop_is_the_rule_step_by_step(
    epochs: Any, shots: int, n_images: int, batch_size: int
) -> None:
    config = CoopConfig(epochs=epochs, batch_size=batch_size)
    given = None if epochs == "auto" else epochs
    expected = coop_schedule(0.002, n_images, shots, batch_size, given)
    assert coop_rates(config, 0.002, n_images, shots) == pytest.approx(expected, rel=1e-12)


def test_coops_own_setting_takes_as_many_steps_as_its_code() -> None:
    rates = coop_rates(CoopConfig(epochs="auto", batch_size=32), 0.002, 16 * 50, shots=16)
    assert len(rates) == 5000
    assert rates[:25] == [1e-5] * 25
    assert rates[25:50] == [0.002] * 25
    assert 0 < rates[-1] < 1e-6


@pytest.mark.parametrize("n_coop", [1, 50, 750, 5000])
@pytest.mark.parametrize("config", FAST)
def test_fast_spends_as_much_rising_then_falling(config: FastConfig, n_coop: int) -> None:
    coop = torch.rand(n_coop).tolist()
    rates = fast_rates(config, coop, 1.5)
    assert len(rates) == max(config.min_steps, math.ceil(n_coop / config.stride))
    assert sum(rates) == pytest.approx(1.5 * sum(coop), rel=1e-9)
    assert min(rates) > 0
    peak, after = rates.index(max(rates)), len(rates) - rates[::-1].index(max(rates))
    assert all(before < later for before, later in pairwise(rates[: peak + 1]))
    assert rates[peak:after] == [max(rates)] * (after - peak)
    assert all(before > later for before, later in pairwise(rates[after - 1 :]))


def test_fast_warms_up_stays_and_falls_where_it_was_told() -> None:
    config = FastConfig(stride=10, boost=BOOST, min_steps=1, warmup_steps=4, decay=0.3)
    rates = fast_rates(config, [0.1] * 1000, 1.0)
    shape = [rate / max(rates) for rate in rates]
    assert shape[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shape[4:71] == pytest.approx([1.0] * 67)
    assert shape[71:] == pytest.approx([left / 30 for left in range(29, 0, -1)])


@pytest.mark.parametrize(
    ("rank", "bits", "boost"),
    [("full", 16, 2.0), (1, 16, 1.5), ("full", 1, 1.0), (2, 4, 1.0)],
)
@pytest.mark.parametrize(("n_images", "shots"), [(4, 1), (12, 4), (800, 16)])
def test_fast_spends_as_much_as_coop_times_the_boost_of_the_method(
    n_images: int, shots: int, rank: Any, bits: Any, boost: float
) -> None:
    prompt = PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=4)
    coop = {"epochs": "auto", "batch_size": 32}
    fast, slow = (
        step_rates(train_config(12, schedule=name, coop=coop), 0.002, n_images, shots, prompt)
        for name in ("fast", "coop")
    )
    assert sum(fast) == pytest.approx(boost * sum(slow), rel=1e-9)
    assert len(fast) == 12 < len(slow)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "slow"},
        {"rounds": 13},  # more than the fewest steps
        {"schedule": "coop", "coop": {"epochs": 2, "batch_size": 32}},
        {"fast": {"stride": 0, "boost": BOOST, "min_steps": 9, "warmup_steps": 1, "decay": 0.5}},
        {"fast": {"stride": 9, "boost": BOOST, "min_steps": 0, "warmup_steps": 1, "decay": 0.5}},
        {"fast": {"stride": 9, "boost": BOOST, "min_steps": 9, "warmup_steps": -1, "decay": 0.5}},
        {"fast": {"stride": 9, "boost": BOOST, "min_steps": 9, "warmup_steps": 1, "decay": 1.5}},
        {
            "fast": {
                "stride": 9,
                "boost": {**BOOST, "full": 0},
                "min_steps": 9,
                "warmup_steps": 1,
                "decay": 0.5,
            }
        },
        {"fast": {"stride": 9}},
        {"coop": {"epochs": 0, "batch_size": 32}},
        {"coop": {"epochs": "all", "batch_size": 32}},
        {"coop": {"epochs": "auto", "batch_size": 0}},
        {"batch_size": 32},
    ],
)
def test_schedules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train_config(**wrong)
