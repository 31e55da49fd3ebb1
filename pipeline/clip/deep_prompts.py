"""Deep prompts: states that replace those of the prompt's positions before each early block.

MaPLe (arXiv 2210.03117), as its public code runs it: the first block reads the prompt with the
rest of its input, and the states that it computes for the prompt are discarded before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor


def replace_prompt(x: Tensor, deep: Tensor | None, block: int, start: int) -> Tensor:
    """Put a block's deep prompt into the states that enter it, unchanged.

    Block i = 1..I (counted from 0) gets `deep[:, i - 1]`; other blocks get `x` itself.

    Args:
        x: `[S, ..., L, D]` states, of the text or the image tower.
        deep: `[S, I, ..., M, D]`, whose middle dimensions may be 1; None if there are none.
        block: i.
        start: the first of the M positions.

    Returns:
        `[S, ..., L, D]`.
    """
    if deep is None or not 1 <= block <= deep.shape[1]:
        return x
    prompt = deep[:, block - 1].expand(*x.shape[:-2], -1, -1)
    stop = start + prompt.shape[-2]
    return torch.cat([x[..., :start, :], prompt, x[..., stop:, :]], dim=-2)
