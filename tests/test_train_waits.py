"""A step never makes the host wait for a GPU, which is seen without one, too."""

import copy
import traceback
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import CLIP_FRAME, train_config
from fits import NAMES, POINTS, M, replica, start, training_set
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.backbone import Backbone
from pipeline.text_tower import TextTower
from pipeline.train import PromptFit

WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh"}


class Waits(TorchDispatchMode):
    """Counts, by line of the pipeline, what makes the host wait for a GPU, also without one.

    A value is read back, a mask is turned into indices, or Python's numbers become a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in WAITING or any(i is not None and i.dtype == torch.bool for i in indices):
            lines = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()]
            own = [line for line in lines if "/pipeline/" in line]
            self.places[f"{name} {' '.join(own[-2:])}"] += 1
        return func(*args, **(kwargs or {}))


def padded(backbone: Backbone) -> TextTower:
    """Return the tiny CLIP's tower without its mask, which takes the full path."""
    model = copy.deepcopy(backbone.model)
    model.attn_mask = None
    return TextTower(model, CLIP_FRAME)


@pytest.mark.parametrize("budget_bytes", [2**31, 2**20])  # one pass, and chunks
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("path", ["shared", "full"])
def test_a_step_does_not_wait(
    backbone: Backbone, path: str, precision: str, budget_bytes: int
) -> None:
    own, places = copy.copy(backbone.text) if path == "shared" else padded(backbone), []
    own.budget_bytes = budget_bytes
    data = replace(training_set(own, len(POINTS)), names=own.pack(NAMES * 8, M))
    assert (own._chunk(len(POINTS), data.names) < data.names.n_parts) == (budget_bytes < 2**31)
    for n_steps in (4, 12):
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
