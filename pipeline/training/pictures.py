"""Images beside deep prompts: their features depend on the prompts, so they cannot be cached.

What can be: the pixels, and everything in front of the first prompted layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.clip.vision_tower import VisionTower, encode_tokens
from pipeline.features.task import TaskPictures

CHUNK = 64
"""Pictures whose tokens are in memory at once where no gradient is needed."""


def view_tokens(vision: VisionTower | None, pictures: TaskPictures | None, row_N: Tensor) -> Tensor:
    """Return what enters the first block of training images, `[N, V, L, W]`."""
    assert vision is not None, "prompts in the image tower need the tower"
    assert pictures is not None, "prompts in the image tower need pictures"
    tokens = []
    for rows in torch.split(row_N, CHUNK):
        view_X3HW = pictures.view_NV3HW[rows].flatten(0, 1)
        tokens.append(vision.embed(pictures.normalized(view_X3HW, vision.device)))
    return torch.unflatten(torch.cat(tokens), 0, (len(row_N), pictures.view_NV3HW.shape[1]))


@torch.no_grad()
def encode_beside(
    vision: VisionTower | None, pictures: TaskPictures | None, row_N: Tensor, prompt_SJMW: Tensor
) -> Tensor:
    """Return the unit features `[S, N, E]` of pictures beside prompts, on the CPU."""
    assert vision is not None, "prompts in the image tower need the tower"
    assert pictures is not None, "prompts in the image tower need pictures"
    parts = []
    for rows in torch.split(row_N, CHUNK):
        token_BLW = vision.embed(pictures.normalized(pictures.pixel_N3HW[rows], vision.device))
        token_SBLW = token_BLW.expand(len(prompt_SJMW), -1, -1, -1)
        parts.append(encode_tokens(vision, token_SBLW, prompt_SJMW).cpu())
    return torch.cat(parts, dim=1)
