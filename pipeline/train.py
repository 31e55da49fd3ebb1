"""Fit prompts: S replicas in one pass over a frozen text tower and cached image features.

Shapes: S replicas, N images, B images of a batch, V views of an image, K classes, M context
tokens, D text width, E joint embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import Config
from pipeline.metrics import logits
from pipeline.packing import PackedNames
from pipeline.prompts import Prompt
from pipeline.text_tower import TextTower


class TrainConfig(Config):
    """The optimizer and its schedule: SGD, linear warm-up, cosine decay to zero."""

    lr: float = Field(gt=0)
    steps: int = Field(ge=1)
    warmup_steps: int = Field(ge=0)
    batch_size: Literal["all"] | Annotated[int, Field(ge=1)]
    """Images of a step; `all` uses every shot: the text pass costs the same."""
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    epochs: int = Field(ge=1)
    """How often a fit reports; the steps are divided over the epochs."""

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        if self.steps < self.epochs:
            raise ValueError(f"steps must be at least epochs, {self.epochs}")
        return self


@dataclass(frozen=True)
class Replica:
    """One prompt that trains beside others, with its own learning rate and data order."""

    prompt: Prompt
    lr: float
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """What S replicas train on.

    Attributes:
        views_XVE: unit image features of all candidate images, one per cached view.
        label_X: their labels, 0 to K - 1.
        index_SN: the images that each replica was dealt.
        names: the K class names.
        logit_scale: the backbone's.
    """

    views_XVE: Tensor
    label_X: Tensor
    index_SN: Tensor
    names: PackedNames
    logit_scale: float


def lr_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the peak learning rate at a step."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


class PromptFit:
    """The training of S prompts on one task, advanced an epoch at a time.

    Replicas do not see each other: each has its own images, views, learning rate and
    reparameterization, and gets the result that it would get alone, up to rounding.
    """

    def __init__(
        self, tower: TextTower, data: TrainingSet, replicas: Sequence[Replica], config: TrainConfig
    ) -> None:
        """Prepare the optimizer; nothing is trained yet."""
        self.tower, self.data, self.replicas, self.config = tower, data, replicas, config
        self.epoch = 0
        self.generators = [torch.Generator().manual_seed(r.seed) for r in replicas]
        self.optimizer = torch.optim.SGD(
            [{"params": list(r.prompt.parameters()), "lr": r.lr} for r in replicas],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def run_epoch(self) -> list[float]:
        """Train one epoch and return each replica's mean loss.

        Raises:
            ArithmeticError: if a loss is not finite.
        """
        first, last = (
            self.config.steps * e // self.config.epochs for e in (self.epoch, self.epoch + 1)
        )
        self.epoch += 1
        total_S = torch.zeros(len(self.replicas), device=self.data.views_XVE.device)
        for replica in self.replicas:
            replica.prompt.train()
        for step in range(first, last):
            for group, replica in zip(self.optimizer.param_groups, self.replicas, strict=True):
                group["lr"] = replica.lr * lr_factor(step, self.config)
            loss_S = self._losses(*self._draw_batch())
            self.optimizer.zero_grad()
            loss_S.sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total_S += loss_S.detach()
        losses = (total_S / max(1, last - first)).tolist()
        if not all(math.isfinite(loss) for loss in losses):
            raise ArithmeticError(f"the loss is not finite in epoch {self.epoch}: {losses}")
        return losses

    def contexts(self) -> Tensor:
        """Return the current contexts, `[S, M, D]`, with gradients."""
        return torch.stack([replica.prompt() for replica in self.replicas])

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        """Return the images `[S, B]` of a step and the cached view `[S, B]` of each."""
        n_images, n_views = self.data.index_SN.shape[1], self.data.views_XVE.shape[1]
        size = n_images if self.config.batch_size == "all" else self.config.batch_size
        rows, views = [], []
        for index_N, generator in zip(self.data.index_SN, self.generators, strict=True):
            if size >= n_images:
                rows.append(index_N)
            else:
                rows.append(index_N[torch.randperm(n_images, generator=generator)[:size]])
            views.append(torch.randint(n_views, (len(rows[-1]),), generator=generator))
        device = self.data.views_XVE.device
        return torch.stack(rows).to(device), torch.stack(views).to(device)

    def _losses(self, row_SB: Tensor, view_SB: Tensor) -> Tensor:
        """Return the cross-entropy of each replica, `[S]` (arXiv 2109.01134, equation 3)."""
        image_SBE = self.data.views_XVE[row_SB, view_SB]
        class_SKE = self.tower(self.contexts(), self.data.names)
        logits_SBK = logits(image_SBE, class_SKE, self.data.logit_scale)
        label_SB = self.data.label_X[row_SB]
        loss_SB = F.cross_entropy(logits_SBK.transpose(1, 2), label_SB, reduction="none")
        return loss_SB.mean(dim=1)
