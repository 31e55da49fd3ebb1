"""A step never makes the host wait for a GPU, which is seen without one, too."""

import copy
from dataclasses import replace

import pytest
import torch

from pipeline.clip.backbone import Backbone
from pipeline.clip.text.tower import TextTower
from pipeline.training.fit import PromptFit
from tests.helpers.fits import NAMES, POINTS, M, Waits, replica, start, training_set
from tests.helpers.toy import CLIP_FRAME, train_config


def padded(backbone: Backbone) -> TextTower:
    """Return the tiny CLIP's tower without its mask, which takes the full path."""
    model = copy.deepcopy(backbone.model)
    model.attn_mask = None
    return TextTower(model, CLIP_FRAME)


@pytest.mark.usefixtures("emulated_bfloat16")
@pytest.mark.parametrize(
    ("precision", "budget_bytes"),
    [("float32", 2**31), ("float32", 2**21), ("bfloat16", 2**31)],
    ids=["one pass", "parts", "bfloat16"],
)
@pytest.mark.parametrize("path", ["shared", "full"])
def test_a_step_does_not_wait(
    backbone: Backbone, path: str, precision: str, budget_bytes: int
) -> None:
    own, places = copy.copy(backbone.text) if path == "shared" else padded(backbone), []
    own.budget_bytes = budget_bytes
    data = replace(training_set(own, len(POINTS)), names=own.pack(NAMES * 8, M))
    assert (own._part_size(len(POINTS), data.names) < data.names.n_parts) == (budget_bytes < 2**31)
    for n_steps in (2, 5):
        config = train_config(n_steps, precision=precision, rounds=1)
        fit = PromptFit(own, data, [replica(own, *point) for point in POINTS], config)
        with Waits() as waits:
            fit.run_round()
        places.append(waits.places)
    assert places[0] == places[1]


def test_waits_are_seen() -> None:
    mask = torch.tensor([True, False])
    slow = [mask.any().item, mask.nonzero, lambda: mask[mask], lambda: bool(mask[0])]
    with Waits() as waits:
        for call in (*slow, lambda: torch.tensor([1, 2])):
            call()
    assert sum(waits.places.values()) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("schedule", ["fast", "coop"])
def test_a_gpu_gives_the_same_numbers_and_is_not_waited_for(
    tower: TextTower, schedule: str
) -> None:
    config = train_config(schedule=schedule)
    own = copy.deepcopy(tower).to("cuda")
    fit = start(own, POINTS, config)
    losses_of, mode = fit._losses, torch.cuda.set_sync_debug_mode

    def watched(*batch: torch.Tensor) -> torch.Tensor:
        mode("error")
        return losses_of(*batch)

    fit._losses = watched  # type: ignore[method-assign]  # looks on
    fit.optimizer.register_step_post_hook(lambda *_: mode("default"))
    try:
        found = fit.run_round()
    finally:
        mode("default")
    assert found == pytest.approx(start(tower, POINTS, config).run_round(), rel=1e-3)
