"""Where image features come from when prompts stand in the image tower: they cannot be cached.

What can be: the pixels, and everything in front of the first prompted layer.

Shapes: S replicas, N images, V views, H = W pixels, B images of a pass, L image tokens, W vision
width, J prompted layers, M prompt positions, E joint embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.vision_tower import VisionTower

CHUNK = 64
"""Pictures whose tokens are in memory at once where no gradient is needed."""


@dataclass(frozen=True)
class TaskPictures:
    """The pictures behind a task's features, in the same order, as the image tower gets them.

    Attributes:
        pixel_N3HW: uint8, resized and cropped, not yet normalized.
        view_NV3HW: uint8, the training images alone: plain view first, then the same crops that
            the features were made of.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """

    pixel_N3HW: Tensor
    view_NV3HW: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalized(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Return pixels as the tower reads them, float32, `[..., 3, H, W]`."""
        mean_311, std_311 = (
            torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std)
        )
        return (pixels.to(device).float() / 255 - mean_311) / std_311

    def view_tokens(self, vision: VisionTower, row_N: Tensor) -> Tensor:
        """Return what enters the first block of training images, `[N, V, L, W]`."""
        tokens = [
            vision.embed(self.normalized(self.view_NV3HW[rows].flatten(0, 1), vision.device))
            for rows in torch.split(row_N, CHUNK)
        ]
        return torch.unflatten(torch.cat(tokens), 0, (len(row_N), self.view_NV3HW.shape[1]))


def encode_tokens(vision: VisionTower, token_SBLW: Tensor, prompt_SJMW: Tensor) -> Tensor:
    """Return the unit features `[S, B, E]` of images beside each replica's prompts, float32."""
    return F.normalize(vision(token_SBLW, prompt_SJMW).float(), dim=-1)


@torch.no_grad()
def encode_beside(
    vision: VisionTower, pictures: TaskPictures, row_N: Tensor, prompt_SJMW: Tensor
) -> Tensor:
    """Return the unit features `[S, N, E]` of pictures beside prompts, on the CPU."""
    parts = []
    for rows in torch.split(row_N, CHUNK):
        token_BLW = vision.embed(pictures.normalized(pictures.pixel_N3HW[rows], vision.device))
        token_SBLW = token_BLW.expand(len(prompt_SJMW), -1, -1, -1)
        parts.append(encode_tokens(vision, token_SBLW, prompt_SJMW).cpu())
    return torch.cat(parts, dim=1)
