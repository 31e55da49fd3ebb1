"""Checkpoints as CoOp's public code writes them, and prompts to exchange."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.clip.encoders import TextSide
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredPrompt, StoredTensor

M, D, INIT = 4, 64, "a photo of a"


class Learner(nn.Module):
    """CoOp's prompt learner, as far as its state dict goes."""

    def __init__(self, context: Tensor, n_classes: int = 3) -> None:
        super().__init__()
        self.ctx = nn.Parameter(context.clone())
        self.register_buffer("token_prefix", torch.randn(n_classes, 1, D))
        self.register_buffer("token_suffix", torch.randn(n_classes, 19, D))


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """Dassl's warm-up, whose state holds the scheduler that follows it as an object."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50.0)
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [1e-5 for _ in self.base_lrs]


def save_as_coop(path: Path, context: Tensor) -> Learner:
    """Train a step and save as CoOp's public code does: schedule and optimizer included."""
    learner = Learner(context)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.002, momentum=0.9)
    schedule = Warmup(optimizer)
    learner.ctx.float().sum().backward()
    optimizer.step()
    schedule.step()
    checkpoint = {
        "state_dict": learner.state_dict(),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "val_result": None,
    }
    torch.save(checkpoint, path)
    return learner


def stored(
    text: TextSide, rank: int | str = "full", bits: int = 16, n_ctx: int = M
) -> StoredPrompt:
    """Return a prompt away from its start."""
    prompt = Prompt(
        PromptConfig(init=INIT, rank=rank, bits=bits, n_ctx=n_ctx), text.init_MD(n_ctx), 1
    )
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return prompt.store()


def coupled() -> StoredPrompt:
    """Return a prompt of both towers."""
    shapes = {"context_MD": (M, D), "coupling_JWD": (1, 8, D), "bias_JW": (1, 8)}
    tensors = {name: StoredTensor.from_values(torch.randn(shape)) for name, shape in shapes.items()}
    return StoredPrompt(INIT, M, tensors)
