"""A trial that went through bytes is the trial that did not."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load

from pipeline.clip.encoders import TextSide
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.training.checkpoint import COUNTERS, pack_trial, unpack_trial
from pipeline.training.trial import Trial
from tests.helpers.toy import train_config

POINTS: list[dict[str, Any]] = [
    {"rank": 2, "bits": 1},
    {"rank": "full", "bits": 2, "dropout": 0.2, "noise_std": 0.01},
    {"rank": "full", "bits": 16, "residual": {"hidden": 4}},
]


def build(text: TextSide, features: TaskFeatures, schedule: str = "fast", **changed: Any) -> Trial:
    """Return a trial of four rounds and two seeds, nothing trained yet."""
    prompt = PromptConfig(init="a photo of a", n_ctx=2, **{"rank": 1, "bits": 16, **changed})
    train = train_config(12, rounds=4, schedule=schedule)
    return Trial(text, [features, features], prompt, train, 2, [1, 2])


@pytest.mark.parametrize("schedule", ["fast", "coop"])
@pytest.mark.parametrize("point", POINTS)
def test_a_trial_goes_on_bit_for_bit(
    text: TextSide, features: TaskFeatures, point: dict[str, Any], schedule: str
) -> None:
    whole = build(text, features, schedule, **point)
    for _ in range(4):
        whole.run_round()
    first = build(text, features, schedule, **point)
    first.run_round()
    first.run_round()
    data = pack_trial(first)
    second = build(text, features, schedule, **point)
    unpack_trial(data, second)
    assert second.history == first.history
    assert not second.done
    second.run_round()
    second.run_round()
    assert second.done
    assert second.history == whole.history
    assert second.tasks == whole.tasks
    for run, other in zip(whole.runs, second.runs, strict=True):
        assert torch.equal(run.fit.contexts(), other.fit.contexts())


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_checkpoint_of_something_else_is_refused(
    text: TextSide, features: TaskFeatures, damage: str
) -> None:
    trial = build(text, features)
    trial.run_round()
    data, rank = pack_trial(trial), 1
    if damage == "empty":
        data = b""
    elif damage == "cut":
        data = data[: len(data) // 2]
    else:
        rank = 2
    with pytest.raises(ValueError, match="not a checkpoint of this trial"):
        unpack_trial(data, build(text, features, rank=rank))


def test_a_checkpoint_is_small_and_plain(text: TextSide, features: TaskFeatures) -> None:
    trial = build(text, features)
    trial.run_round()
    data = pack_trial(trial)
    assert len(data) < 10_000
    counters = json.loads(load(data)[COUNTERS].numpy().tobytes())  # safetensors and JSON alone
    assert counters["rounds"] == [1, 1]
