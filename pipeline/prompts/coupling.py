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
