"""A transformer block whose weights never change, in the parts that the towers put together.

Shapes: S replicas, N sequences, Q positions that attend, X that are attended to, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.frozen_linear import FrozenLinear


class FrozenBlock(nn.Module):
    """A usual block of open_clip (`is_plain`), all but the attention itself.

    x = x + out_proj(attention(ln_1(x)));  x = x + mlp(ln_2(x))
    """

    def __init__(self, block: Any) -> None:
        """Share the block's weights."""
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.heads = int(attention.num_heads)
        self.width = int(attention.embed_dim)
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.ls_1, self.ls_2 = block.ls_1, block.ls_2
        self.activation = mlp.gelu
        self.in_proj = FrozenLinear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = FrozenLinear(attention.out_proj.weight, attention.out_proj.bias)
        self.c_fc = FrozenLinear(mlp.c_fc.weight, mlp.c_fc.bias)
        self.c_proj = FrozenLinear(mlp.c_proj.weight, mlp.c_proj.bias)

    def part_queries(self) -> None:
        """Let the projection to queries stand alone, for a block that few positions leave."""
        weight, bias, width = self.in_proj.weight_OI, self.in_proj.bias_O, self.width
        del self.in_proj
        self.query_proj = FrozenLinear(weight[:width], None if bias is None else bias[:width])
        self.memory_proj = FrozenLinear(weight[width:], None if bias is None else bias[width:])

    def qkv(self, x: Tensor) -> Tensor:
        """Return queries, keys and values side by side, `[..., 3 D]`."""
        out: Tensor = self.in_proj(self.ln_1(x))
        return out

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Apply the output projection, both residual branches and the MLP; all are `[..., D]`."""
        x = x + self.ls_1(self.out_proj(attended))
        out: Tensor = x + self.ls_2(self.c_proj(self.activation(self.c_fc(self.ln_2(x)))))
        return out


def is_plain(block: Any) -> bool:
    """Return whether a block is open_clip's usual one, which `FrozenBlock` computes itself."""
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", ())
    return (
        isinstance(attention, nn.MultiheadAttention)
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and all(hasattr(mlp, part) for part in ("c_fc", "gelu", "c_proj"))
        and len(mlp) == 3
        and all(hasattr(block, part) for part in ("ln_1", "ln_2", "ls_1", "ls_2"))
    )


def attend(
    query_SNQD: Tensor, key_SNXD: Tensor, value_SNXD: Tensor, mask: Tensor | None, heads: int
) -> Tensor:
    """Return softmax attention `[S, N, Q, D]` under an additive mask `[S N, 1, Q, X]`, or none."""
    query, key, value = (
        torch.unflatten(x.flatten(0, 1), -1, (heads, -1)).transpose(1, 2)
        for x in (query_SNQD, key_SNXD, value_SNXD)
    )
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).reshape(query_SNQD.shape)
