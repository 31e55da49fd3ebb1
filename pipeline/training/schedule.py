"""How a fit spends its steps: CoOp's schedule, and a short one along the same path.

Gradient descent with small steps follows the gradient flow, and how far it gets depends on the
sum of its learning rates. `fast` spends what CoOp's schedule would have spent, times a boost, on
the whole batch and in few steps: the text tower's cost does not depend on the images of a step.
docs/schedules.md has the evidence.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from pipeline.core.config import Config

Name = Literal["fast", "coop"]
WARMUP_LR = 1e-5
"""CoOp's constant learning rate in its first epoch."""


class BoostConfig(Config):
    """Sums of learning rates, as multiples of CoOp's, that end at its training loss.

    Small batches leave the flat start of the flow sooner than the whole batch does, and the more
    so the freer the prompt is to follow their noise.
    """

    full: float = Field(gt=0)
    low_rank: float = Field(gt=0)
    quantized: float = Field(gt=0)


class FastConfig(Config):
    """The whole batch at every step: linear warm-up, a plateau, linear decay."""

    stride: int = Field(ge=1)
    """Steps of CoOp's schedule that one step stands for."""
    boost: BoostConfig
    min_steps: int = Field(ge=1)
    """Steps of a fit that CoOp's schedule would have given fewer than `stride` times as many."""
    warmup_steps: int = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    """Share of the steps in which the learning rate falls to zero."""


class CoopConfig(Config):
    """The schedule of CoOp's public code (arXiv 2109.01134)."""

    epochs: Annotated[int, Field(ge=1)] | Literal["auto"]
    """Passes over the shots; `auto` is 50 for 1 shot, 100 for 2 to 7, 200 for 8 and more."""
    batch_size: int = Field(ge=1)


def coop_epochs(config: CoopConfig, shots: int) -> int:
    """Return the number of passes over the training images."""
    if config.epochs != "auto":
        return config.epochs
    return 50 if shots < 2 else 100 if shots < 8 else 200


def coop_batches(config: CoopConfig, n_images: int) -> int:
    """Return the batches of a pass; an incomplete one is dropped, unless it is the only one."""
    return max(1, n_images // config.batch_size)


def coop_rates(config: CoopConfig, lr: float, n_images: int, shots: int) -> list[float]:
    """Return the learning rate of every step.

    The first pass runs at 1e-5; pass e at lr (1 + cos(pi (e - 1) / E)) / 2, as executed by the
    public code, where the cosine starts counting in the warm-up.
    """
    epochs = coop_epochs(config, shots)
    per_epoch = [WARMUP_LR] + [
        0.5 * lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) for epoch in range(1, epochs)
    ]
    return [rate for rate in per_epoch for _ in range(coop_batches(config, n_images))]


def fast_rates(config: FastConfig, coop: list[float], boost: float) -> list[float]:
    """Return the learning rate of every step; their sum is `boost` times that of CoOp's."""
    n_steps = max(config.min_steps, -(-len(coop) // config.stride))
    decay = max(1, round(config.decay * n_steps))
    shape = [
        min(1.0, (step + 1) / (config.warmup_steps + 1), (n_steps - step) / decay)
        for step in range(n_steps)
    ]
    scale = boost * sum(coop) / sum(shape)
    return [scale * factor for factor in shape]
