"""Deep prompts: the states of a prompt's positions, given anew before each of the first blocks.

MaPLe (arXiv 2210.03117), as its public code runs it: the first block gets the prompt with the
rest of its input, and what it makes of the prompt is thrown away before the next.

Shapes: S replicas, J deep prompts, M prompt positions, X positions in all, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def replace_prompt(x: Tensor, deep: Tensor | None, block: int, start: int) -> Tensor:
    """Put a block's deep prompt into the states that enter it, as it is.

    Block i = 1..J (counted from 0) gets `deep[:, i - 1]`; other blocks get `x` itself.

    Args:
        x: `[S, ..., X, D]` states.
        deep: `[S, J, ..., M, D]`, whose middle dimensions may be 1; None if there are none.
        block: i.
        start: the first of the M positions.

    Returns:
        `[S, ..., X, D]`.
    """
    if deep is None or not 1 <= block <= deep.shape[1]:
        return x
    prompt = deep[:, block - 1].expand(*x.shape[:-2], -1, -1)
    stop = start + prompt.shape[-2]
    return torch.cat([x[..., :start, :], prompt, x[..., stop:, :]], dim=-2)
