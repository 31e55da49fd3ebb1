"""Fit prompts: S replicas in one pass over a frozen text tower and cached image features.

Shapes: N images of a replica, X images that any replica trains on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.similarity import logits
from pipeline.clip.text.encoder import TextEncoder
from pipeline.clip.vision_tower import VisionTower, encode_tokens
from pipeline.core.device import usable_precision
from pipeline.prompts.coupling import stack
from pipeline.prompts.prompt import Prompt
from pipeline.training.config import TrainConfig
from pipeline.training.schedule import step_rates


@dataclass(frozen=True)
class Replica:
    """One prompt of a pass, with its own learning rate and data order."""

    prompt: Prompt
    lr: float
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """The data of S replicas.

    Attributes:
        views_XVE: unit features of all images, one per cached view; with `vision`, what enters the
            first prompted layer, `[X, V, L, W]`.
        label_X: their labels, 0 to K - 1.
        index_SN: the images of each replica.
        names: the K class names.
        logit_scale: the backbone's.
        shots: images per class that were asked for.
        template_KE: unit class embeddings of the template, for KgCoOp; else None.
        vision: the image tower, if prompts go into it; else None.
    """

    views_XVE: Tensor
    label_X: Tensor
    index_SN: Tensor
    names: Any
    logit_scale: float
    shots: int
    template_KE: Tensor | None = None
    vision: VisionTower | None = None


class PromptFit:
    """The training of S prompts on one task, advanced a round at a time.

    Replicas are independent: each has its own images, order, views, learning rate and
    reparameterization, and gets the result that it would get alone, up to rounding.
    """

    def __init__(
        self,
        tower: TextEncoder,
        data: TrainingSet,
        replicas: Sequence[Replica],
        config: TrainConfig,
    ) -> None:
        """Prepare the optimizer, without training."""
        self.tower, self.data, self.replicas, self.config = tower, data, replicas, config
        self.device = data.views_XVE.device
        self.precision = usable_precision(config.precision, self.device.type)
        n_images = data.index_SN.shape[1]
        rates_SU = [
            step_rates(config, r.lr, n_images, data.shots, r.prompt.config) for r in replicas
        ]
        self.n_steps = len(rates_SU[0])
        if not any(list(r.prompt.parameters()) for r in replicas):
            self.n_steps = config.rounds  # nothing to train: one step per round, for its loss
        self.round = self.step = 0
        self.orders = [
            self._batches(index_N, replica.seed)
            for index_N, replica in zip(data.index_SN, replicas, strict=True)
        ]
        groups = [
            {**group, "rates_U": rates_U}
            for replica, rates_U in zip(replicas, rates_SU, strict=True)
            for group in replica.prompt.groups()
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.schedule == "fast" and config.momentum > 0,
            weight_decay=config.weight_decay,
        )

    def run_round(self) -> list[float]:
        """Train one round and return each replica's mean loss.

        Nothing in a step waits for the device: batches are drawn and moved before the round,
        losses are read after it.

        Raises:
            ArithmeticError: if a loss, or what was learned, is not finite.
        """
        self.round += 1
        last = self.n_steps * self.round // self.config.rounds
        row_USB, view_USB = self._draw(last - self.step)
        total_S = torch.zeros(len(self.replicas), device=self.device)
        for replica in self.replicas:
            replica.prompt.train()
        for row_SB, view_SB in zip(row_USB, view_USB, strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = group["share"] * group["rates_U"][self.step]
            loss_S = self._losses(row_SB, view_SB)
            self.optimizer.zero_grad()
            if loss_S.requires_grad:  # rank 0 has nothing to train
                loss_S.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
            self.optimizer.step()
            total_S += loss_S.detach()
            self.step += 1
        losses = (total_S / len(row_USB)).tolist()
        if not all(math.isfinite(loss) for loss in losses):
            raise ArithmeticError(f"the loss is not finite: {losses}")
        for replica in self.replicas:
            for name, value in replica.prompt.named_parameters():
                if not value.isfinite().all():
                    raise ArithmeticError(
                        f"the prompt is not finite: {name} of seed {replica.seed}"
                    )
        return losses

    def contexts(self) -> Tensor:
        """Return the current contexts, `[S, M, D]`, with gradients."""
        return torch.stack([replica.prompt() for replica in self.replicas])

    def _batches(self, index_N: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a replica's batches without end: image rows `[B]` and a cached view of each."""
        generator = torch.Generator().manual_seed(seed)
        n_views, n_images = self.data.views_XVE.shape[1], len(index_N)
        size = n_images
        if self.config.schedule == "coop":
            size = min(self.config.coop.batch_size, n_images)
        while True:
            order_N = torch.arange(n_images)
            if size < n_images:
                order_N = torch.randperm(n_images, generator=generator)
            for start in range(0, n_images - size + 1, size):
                view_B = torch.randint(n_views, (size,), generator=generator)
                yield index_N[order_N[start : start + size]], view_B

    def _draw(self, n_steps: int) -> tuple[Tensor, Tensor]:
        """Return image rows and views of the next steps, `[U, S, B]` each, on the device."""
        steps = [[torch.stack(next(order)) for order in self.orders] for _ in range(n_steps)]
        drawn = torch.stack([torch.stack(step) for step in steps])
        row_USB, view_USB = drawn.to(self.device, non_blocking=True).unbind(dim=2)
        return row_USB, view_USB

    def _losses(self, row_SB: Tensor, view_SB: Tensor) -> Tensor:
        """Return each replica's loss, `[S]`: cross-entropy (arXiv 2109.01134, equation 3).

        KgCoOp adds kg_weight * mean over classes of ||w - w_template||^2, of unit class
        embeddings w (arXiv 2303.13283).
        """
        image_SBE = self.data.views_XVE[row_SB, view_SB]
        inputs = stack([replica.prompt.inputs() for replica in self.replicas])
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            class_SKE = self.tower(inputs.context_MD, self.data.names, inputs.deep_IMD)
            if self.data.vision is not None:
                assert inputs.vision_JMW is not None
                image_SBE = encode_tokens(self.data.vision, image_SBE, inputs.vision_JMW)
        class_SKE = class_SKE.float()
        logits_SBK = logits(image_SBE, class_SKE, self.data.logit_scale)
        label_SB = self.data.label_X[row_SB]
        loss_SB = F.cross_entropy(logits_SBK.transpose(1, 2), label_SB, reduction="none")
        loss_S = loss_SB.mean(dim=1)
        if self.data.template_KE is not None:
            away_SKE = F.normalize(class_SKE, dim=-1) - self.data.template_KE
            loss_S = loss_S + self.config.kg_weight * away_SKE.square().sum(dim=-1).mean(dim=-1)
        return loss_S
