"""What identifies a backbone."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of what a model computes: equal for equal models.

    It covers parameters and buffers, names included, and what weights do not show: the kind of
    each layer without weights (GELU or QuickGELU, say), numbers of heads, and the eps of norms.
    """
    digest = hashlib.sha256()
    for name, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
        if kind := beside_weights(module):
            digest.update(f"{name}:{kind}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def beside_weights(module: nn.Module) -> str:
    """Return what a module does that its weights do not show; empty for most."""
    numbers = {key: getattr(module, key, None) for key in ("num_heads", "eps")}
    kinds = [f"{key}={value}" for key, value in numbers.items() if isinstance(value, int | float)]
    is_leaf = not any(module.children()) and not module.state_dict()
    idle = isinstance(module, nn.Identity | nn.Sequential | nn.ModuleList)
    if is_leaf and not idle and "Drop" not in type(module).__name__:  # dropouts are off
        kinds.append(f"{type(module).__name__}({module.extra_repr()})")
    return " ".join(kinds)
