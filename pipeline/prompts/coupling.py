"""Prompts of both towers, coupled (MaPLe, arXiv 2210.03117; quantized, QMaPLe, 2407.10704).

The first J layers of the text tower read contexts of their own, P_0 (the usual context) and
P_1 .. P_{J-1}; the same layers of the image tower read linear functions of them, A_i P_i + b_i.

A stored prompt names its factors `deep_JMD`, `coupling_JWD` and `bias_JW`: the names are part of
the file format, though the first has J - 1 layers. In code it is `deep_IMD`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DEEP_STD = 0.02
"""Standard deviation at which deep text prompts start, as in MaPLe's public code."""


@dataclass(frozen=True)
class Inputs:
    """What the towers read, of one prompt or, with a leading axis S, of several.

    Attributes:
        context_MD: the text tower's first layer reads it between start tokens and name.
        deep_IMD: its layers 1 to I = J - 1 read these in the context's place; None if there are
            none.
        vision_JMW: layers 0 to J - 1 of the image tower read these; None if J is 0.
    """

    context_MD: Tensor
    deep_IMD: Tensor | None = None
    vision_JMW: Tensor | None = None


def start_coupling(
    depth: int, context_MD: Tensor, vision_width: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw what J = `depth` prompted layers learn beside the context, by its stored names.

    `(J - 1) M D + J W (D + 1)` scalars: deep prompts, normal(0, 0.02), and the coupling functions,
    uniform within 1 / sqrt(D) as in torch's linear layers. At J = 1 there are no deep prompts.
    """
    (n_ctx, width), bound = context_MD.shape, context_MD.shape[1] ** -0.5
    drawn = {
        "deep_JMD": DEEP_STD * torch.randn(depth - 1, n_ctx, width, generator=generator),
        "coupling_JWD": bound
        * (2 * torch.rand(depth, vision_width, width, generator=generator) - 1),
        "bias_JW": bound * (2 * torch.rand(depth, vision_width, generator=generator) - 1),
    }
    return {name: values.to(context_MD) for name, values in drawn.items() if len(values)}


def couple(context_MD: Tensor, values: dict[str, Tensor]) -> Inputs:
    """Return what the towers read.

    vision_i = A_i P_i + b_i   (arXiv 2210.03117, section 3.2.3)

    Args:
        context_MD: P_0.
        values: the factors of a prompt, by their stored names.
    """
    if "coupling_JWD" not in values:
        return Inputs(context_MD)
    deep_IMD = values.get("deep_JMD")
    text_JMD = context_MD[None]
    if deep_IMD is not None:
        text_JMD = torch.cat([text_JMD, deep_IMD])
    vision_JMW = text_JMD @ values["coupling_JWD"].transpose(1, 2) + values["bias_JW"][:, None]
    return Inputs(context_MD, deep_IMD, vision_JMW)


def stack(inputs: Sequence[Inputs]) -> Inputs:
    """Put the inputs of S prompts of one kind behind a leading axis."""

    def stacked(tensors: list[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(present) if present else None

    return Inputs(
        torch.stack([one.context_MD for one in inputs]),
        stacked([one.deep_IMD for one in inputs]),
        stacked([one.vision_JMW for one in inputs]),
    )
