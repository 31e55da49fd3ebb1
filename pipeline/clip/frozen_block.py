"""A transformer block whose weights never change, as the parts that the towers are made of.

Shapes: X sequences of each replica, L positions that are attended to, D width of either tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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

    def split_queries(self) -> None:
        """Separate the projection to queries, for a block that is computed at few positions."""
        weight, bias, width = self.in_proj.weight, self.in_proj.bias, self.width
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
    query_SXQD: Tensor, key_SXLD: Tensor, value_SXLD: Tensor, mask: Tensor | None, heads: int
) -> Tensor:
    """Return softmax attention `[S, X, Q, D]` under an additive mask `[S X, 1, Q, L]`, or none."""
    query, key, value = (
        torch.unflatten(x.flatten(0, 1), -1, (heads, -1)).transpose(1, 2)
        for x in (query_SXQD, key_SXLD, value_SXLD)
    )
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).reshape(query_SXQD.shape)


def encode_parts(encode: Callable[..., Tensor], parts: Iterable[tuple[Any, ...]]) -> Tensor:
    """Encode parts of a pass one after the other and join them along the second dimension.

    Only the inputs of a part are kept; the backward pass computes the rest again.
    """
    done = [
        checkpoint(encode, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
    return torch.cat(done, dim=1)
