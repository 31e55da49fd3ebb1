"""Learning rates of every step: CoOp's schedule, and a short one along the same path.

Gradient descent with small steps follows the gradient flow, and how far it gets depends on the
sum of its learning rates. `fast` has the sum of CoOp's schedule, times a boost, in few steps on
the whole batch: the cost of the text tower does not depend on the images of a step.
docs/schedules.md has the evidence.
"""

from __future__ import annotations

import math

from pipeline.prompts.config import PromptConfig
from pipeline.training.config import CoopConfig, FastConfig, TrainConfig, coop_epochs

WARMUP_LR = 1e-5
"""CoOp's constant learning rate in its first epoch."""


def coop_batches(config: CoopConfig, n_images: int) -> int:
    """Return the batches of a pass; an incomplete one is dropped unless it is the only one."""
    return max(1, n_images // config.batch_size)


def coop_rates(config: CoopConfig, lr: float, n_images: int, shots: int) -> list[float]:
    """Return the learning rate of every step.

    The first pass runs at 1e-5; pass e at lr (1 + cos(pi (e - 1) / n)) / 2 of n passes, as
    executed by the public code, where the cosine starts counting in the warm-up.
    """
    epochs = coop_epochs(config, shots)
    per_epoch = [WARMUP_LR] + [
        0.5 * lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) for epoch in range(1, epochs)
    ]
    return [rate for rate in per_epoch for _ in range(coop_batches(config, n_images))]


def fast_rates(config: FastConfig, coop: list[float], boost: float) -> list[float]:
    """Return the learning rate of every step; their sum is `boost` times that of `coop`."""
    n_steps = max(config.min_steps, -(-len(coop) // config.stride))
    decay = max(1, round(config.decay * n_steps))
    shape = [
        min(1.0, (step + 1) / (config.warmup_steps + 1), (n_steps - step) / decay)
        for step in range(n_steps)
    ]
    scale = boost * sum(coop) / sum(shape)
    return [scale * factor for factor in shape]


def step_rates(
    config: TrainConfig, lr: float, n_images: int, shots: int, prompt: PromptConfig
) -> list[float]:
    """Return the learning rate of every step of a prompt's fit with peak `lr`."""
    rates = coop_rates(config.coop, lr, n_images, shots)
    if config.schedule == "coop":
        return rates
    boost = config.fast.boost.low_rank
    if prompt.bits < 16 and prompt.quantizer.mode == "qat":
        boost = config.fast.boost.quantized
    elif prompt.rank == "full":
        boost = config.fast.boost.full
    return fast_rates(config.fast, rates, boost)
