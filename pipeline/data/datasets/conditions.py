"""Conditions under which pictures are shown: each is a fixed change of the whole picture.

A condition is a pure function of RGB pictures `[N, 3, H, W]` in [0, 255]; nothing is random. The
NAMED conditions occur in pretraining, in pictures and in captions. The UNNAMED ones occur in
neither: only tasks show them.

Shapes: N pictures, H = W pixels of a square picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

Condition = Callable[[Tensor], Tensor]


def _luminance(x_N3HW: Tensor) -> Tensor:
    """Return the mean of the channels, `[N, 1, H, W]`."""
    return x_N3HW.mean(dim=1, keepdim=True)


def _tint(red: float, green: float, blue: float) -> Condition:
    return lambda x_N3HW: x_N3HW * torch.tensor([red, green, blue]).view(1, 3, 1, 1)


def _channels(*order: int) -> Condition:
    return lambda x_N3HW: x_N3HW[:, list(order)]


def _resize(x_N3HW: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x_N3HW, (height, width), mode="bilinear", antialias=True)


def _shrink(height: float, width: float) -> Condition:
    """Shrink the picture around its centre; its edges go on outwards."""

    def apply(x_N3HW: Tensor) -> Tensor:
        H, W = x_N3HW.shape[-2:]
        small = _resize(x_N3HW, round(H * height), round(W * width))
        top, left = (H - small.shape[-2]) // 2, (W - small.shape[-1]) // 2
        right, bottom = W - small.shape[-1] - left, H - small.shape[-2] - top
        return F.pad(small, (left, right, top, bottom), mode="replicate")

    return apply


def _close_up(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    top, left = H // 5, W // 5
    return _resize(x_N3HW[..., top : H - top, left : W - left], H, W)


def _blurred(x_N3HW: Tensor) -> Tensor:
    size = 2 * (x_N3HW.shape[-1] // 18) + 1
    for _ in range(2):
        x_N3HW = F.avg_pool2d(x_N3HW, size, 1, size // 2, count_include_pad=False)
    return x_N3HW


def _pixelated(x_N3HW: Tensor) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(x_N3HW, 12), x_N3HW.shape[-2:], mode="nearest")


def _striped(x_N3HW: Tensor) -> Tensor:
    H = x_N3HW.shape[-2]
    band_H1 = (torch.arange(H) * 10 // H % 2).view(-1, 1)
    return x_N3HW * (1 - 0.85 * band_H1)


_HEAT = torch.tensor([[0, 0, 60], [90, 0, 150], [220, 40, 90], [255, 160, 20], [255, 255, 200.0]])


def _thermal(x_N3HW: Tensor) -> Tensor:
    heat_NHW = _luminance(x_N3HW)[:, 0] / 255 * (len(_HEAT) - 1)
    low_NHW = heat_NHW.long().clamp(0, len(_HEAT) - 2)
    part_NHW1 = (heat_NHW - low_NHW)[..., None]
    return torch.lerp(_HEAT[low_NHW], _HEAT[low_NHW + 1], part_NHW1).permute(0, 3, 1, 2)


def _embossed(x_N3HW: Tensor) -> Tensor:
    step = max(1, x_N3HW.shape[-1] // 32)
    grey = _luminance(x_N3HW)
    shifted = F.pad(grey, (step, 0, step, 0), mode="replicate")[..., :-step, :-step]
    return (128 + grey - shifted).clamp(0, 255).expand(-1, 3, -1, -1)


def _sepia(x_N3HW: Tensor) -> Tensor:
    return _tint(1.0, 0.8, 0.55)(_luminance(x_N3HW).expand(-1, 3, -1, -1))


def _tiled(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    return _resize(x_N3HW, H // 2, W // 2).repeat(1, 1, 2, 2)


def _wavy(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    y_HW, x_HW = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    grid_HW2 = torch.stack([x_HW + 0.15 * torch.sin(2 * math.pi * y_HW), y_HW], dim=-1)
    grid = grid_HW2.expand(len(x_N3HW), -1, -1, -1)
    return F.grid_sample(x_N3HW, grid, padding_mode="border", align_corners=True)


def _dotted(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    wave_H, wave_W = (torch.sin(torch.arange(n) * 2 * math.pi * 8 / n) for n in (H, W))
    return torch.where((wave_H[:, None] * wave_W).abs() > 0.35, x_N3HW, 255.0)


def _shaded(x_N3HW: Tensor) -> Tensor:
    return x_N3HW * torch.linspace(0.08, 1, x_N3HW.shape[-1])


def _checkered(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    odd_HW = (torch.arange(H)[:, None] * 4 // H + torch.arange(W) * 4 // W) % 2 == 1
    return torch.where(odd_HW, 255 - x_N3HW, x_N3HW)


def _rolled(x_N3HW: Tensor) -> Tensor:
    return x_N3HW.roll(x_N3HW.shape[-1] // 2, dims=-1)


def _corner(x_N3HW: Tensor) -> Tensor:
    H, W = x_N3HW.shape[-2:]
    small = _resize(x_N3HW, H * 5 // 8, W * 5 // 8)
    pad = (W - small.shape[-1], 0, H - small.shape[-2], 0)
    return F.pad(small, pad, mode="replicate")


COLOURS: MappingProxyType[str, Condition] = MappingProxyType(
    {
        "negative": lambda x: 255 - x,
        "grey": lambda x: _luminance(x).expand(-1, 3, -1, -1),
        "night": _tint(0.18, 0.25, 0.5),
        "faded": lambda x: 255 - (255 - x) * 0.3,
        "recoloured": _channels(1, 2, 0),
    }
)
SHAPES: MappingProxyType[str, Condition] = MappingProxyType(
    {
        "upturned": lambda x: x.flip(-2),
        "sideways": lambda x: torch.rot90(x, 1, (-2, -1)),
        "tiny": _shrink(0.5, 0.5),
        "close": _close_up,
        "narrow": _shrink(1.0, 0.45),
    }
)
TEXTURES: MappingProxyType[str, Condition] = MappingProxyType(
    {"blurred": _blurred, "pixelated": _pixelated, "striped": _striped}
)
KINDS = (COLOURS, SHAPES, TEXTURES)
NAMED: MappingProxyType[str, Condition] = MappingProxyType({**COLOURS, **SHAPES, **TEXTURES})
"""What pretraining shows and names: captions call a condition by its key."""

UNNAMED: MappingProxyType[str, Condition] = MappingProxyType(
    {
        "thermal": _thermal,
        "embossed": _embossed,
        "solarized": lambda x: torch.where(x > 128, 255 - x, x) * 1.8,
        "sepia": _sepia,
        "posterized": lambda x: (x > 128).float() * 255,
        "swapped": _channels(2, 0, 1),
        "red light": lambda x: _tint(1.0, 0.1, 0.1)(_luminance(x).expand(-1, 3, -1, -1)),
        "tiled": _tiled,
        "wavy": _wavy,
        "rolled": _rolled,
        "corner": _corner,
        "wide": _shrink(0.45, 1.0),
        "toppled": lambda x: torch.rot90(x, -1, (-2, -1)),
        "dotted": _dotted,
        "shaded": _shaded,
        "checkered": _checkered,
    }
)
"""What neither pictures nor captions of the pretraining know."""

CONDITIONS: MappingProxyType[str, Condition] = MappingProxyType({**NAMED, **UNNAMED})


def apply_conditions(pictures_N3HW: Tensor, conditions: Sequence[str]) -> Tensor:
    """Show pictures under conditions, one after the other.

    Args:
        pictures_N3HW: RGB in [0, 255].
        conditions: keys of `CONDITIONS`; none: the pictures as they are.

    Returns:
        The same shape, in [0, 255]. The same pictures give the same result.
    """
    for condition in conditions:
        pictures_N3HW = CONDITIONS[condition](pictures_N3HW).clamp(0, 255)
    return pictures_N3HW
