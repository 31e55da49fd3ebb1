"""One pass of a causal text tower in which all classes share the prefix.

What does not depend on the context is computed once: the start tokens (they see nothing but each
other) in all blocks, and the names' queries, keys and values in the first block. This also holds
with deep prompts, which take the context's place.

Shapes: X = M + Y Z positions in a pass, L of the longest name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.deep_prompts import replace_prompt
from pipeline.clip.frozen_block import FrozenBlock, attend
from pipeline.clip.text.packing import PackedNames


class SharedBlock(FrozenBlock):
    """A transformer block of open_clip over `[context, packed names]`."""

    memory_OX: Tensor
    """Keys and values of the start tokens, side by side: X = 2 D."""

    def __init__(self, block: Any) -> None:
        """Share the block's weights; `start` computes the start tokens."""
        super().__init__(block)
        self.register_buffer("memory_OX", torch.zeros(0, 2 * self.width), persistent=False)

    @torch.no_grad()
    def start(self, block: Any, x_OD: Tensor) -> Tensor:
        """Keep the keys and values of the start tokens; return their next states `[O, D]`."""
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        bias = None if bias is None else bias[self.width :]
        self.memory_OX = F.linear(block.ln_1(x_OD), weight[self.width :], bias)
        mask = torch.full((len(x_OD), len(x_OD)), float("-inf"), device=x_OD.device).triu(1)
        out: Tensor = block(x_OD[None], attn_mask=mask)[0] if len(x_OD) else x_OD
        return out

    def forward(
        self,
        x_SXD: Tensor,
        names: PackedNames,
        masks: tuple[Tensor, Tensor],
        names_qkv: Tensor | None = None,
    ) -> Tensor:
        """Return the next states `[S, X, D]`.

        Args:
            x_SXD: context and packed names.
            names: the names.
            masks: of the context, `[S, 1, M, P]`, and of the names, `[S Y, 1, Z, P + Z]`.
            names_qkv: `[Y, Z, 3 D]` if the names' states are the same in every pass.
        """
        shape_YZ = names.embeddings_YZD.shape[:2]
        if names_qkv is None:
            context, packed = cut(self.qkv(x_SXD), names.n_ctx)
            packed = torch.unflatten(packed, 1, shape_YZ)
        else:
            context = self.qkv(x_SXD[:, : names.n_ctx])
            packed = names_qkv.to(context.dtype).expand(len(x_SXD), -1, -1, -1)
        query_S1MD, key_S1MD, value_S1MD = context[:, None].chunk(3, dim=-1)
        key_S1PD, value_S1PD = self.with_start(key_S1MD, value_S1MD)
        context_S1MD = attend(query_S1MD, key_S1PD, value_S1PD, masks[0], self.heads)
        query_SYZD, key_SYZD, value_SYZD = packed.chunk(3, dim=-1)
        names_SYZD = attend(
            query_SYZD,
            with_prefix(key_S1PD, key_SYZD),
            with_prefix(value_S1PD, value_SYZD),
            masks[1],
            self.heads,
        )
        attended_SXD = torch.cat([context_S1MD.flatten(1, 2), names_SYZD.flatten(1, 2)], dim=1)
        return self.finish(x_SXD, attended_SXD)

    def with_start(self, key_S1MD: Tensor, value_S1MD: Tensor) -> tuple[Tensor, Tensor]:
        """Put the start tokens in front of the context's keys and values: `[S, 1, P, D]`."""
        start = self.memory_OX.to(key_S1MD.dtype).expand(len(key_S1MD), 1, -1, -1)
        start_key, start_value = start.chunk(2, dim=-1)
        return torch.cat([start_key, key_S1MD], 2), torch.cat([start_value, value_S1MD], 2)


class LastSharedBlock(SharedBlock):
    """The last block, computed only at the tokens that become class embeddings."""

    def __init__(self, block: Any) -> None:
        """Share the block's weights."""
        super().__init__(block)
        self.split_queries()

    def last(self, x_SXD: Tensor, names: PackedNames, mask: Tensor) -> Tensor:
        """Return the states `[S, K, D]` of the last tokens; the mask is `[S K, 1, 1, P + L]`."""
        hidden_SXD = self.ln_1(x_SXD)
        last_K = names.n_ctx + names.last_K
        query_SKD = self.query_proj(hidden_SXD[:, last_K])
        context, packed = cut(self.memory_proj(hidden_SXD), names.n_ctx)
        key_S1PD, value_S1PD = self.with_start(*context[:, None].chunk(2, dim=-1))
        key_SKLD, value_SKLD = packed[:, names.token_KL].chunk(2, dim=-1)
        attended_SKD = attend(
            query_SKD[:, :, None],
            with_prefix(key_S1PD, key_SKLD),
            with_prefix(value_S1PD, value_SKLD),
            mask,
            self.heads,
        )[:, :, 0]
        return self.finish(x_SXD[:, last_K], attended_SKD)


class SharedPath(nn.Module):
    """All blocks of a causal tower, with a shared prefix and without padding."""

    def __init__(self, blocks: Any, start_OD: Tensor) -> None:
        """Share the blocks' weights; run the start tokens through them, once."""
        super().__init__()
        self.blocks = nn.ModuleList(SharedBlock(block) for block in blocks[:-1])
        self.last = LastSharedBlock(blocks[-1])
        for own, block in zip([*self.blocks, self.last], blocks, strict=True):
            start_OD = own.start(block, start_OD)

    @torch.no_grad()
    def first_qkv(self, embeddings_YZD: Tensor) -> Tensor | None:
        """Return what the first block makes of packed names in every pass, `[Y, Z, 3 D]`."""
        for block in self.blocks:
            assert isinstance(block, SharedBlock)
            return block.qkv(embeddings_YZD)
        return None

    def forward(
        self, context_SMD: Tensor, names: PackedNames, deep_SIMD: Tensor | None = None
    ) -> Tensor:
        """Return the states `[S, K, D]` that become class embeddings, in the rows' order.

        `context_SMD` has its positions added; deep prompts replace its states as they are.
        """
        device, dtype = context_SMD.device, context_SMD.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        n_ctx, n_start = names.n_ctx, len(self.last.memory_OX)
        seen_1MP = torch.ones(1, n_ctx, n_start + n_ctx, dtype=torch.bool, device=device)
        n_replicas = len(context_SMD)
        masks = (
            additive(seen_1MP.tril(n_start), dtype, n_replicas),
            additive(names.mask_YZX, dtype, n_replicas),
        )
        last_mask = additive(names.seen_KX[:, None], dtype, n_replicas)
        names_SXD = names.embeddings_YZD.flatten(0, 1).expand(n_replicas, -1, -1)
        x_SXD, names_qkv = torch.cat([context_SMD, names_SXD], dim=1), names.first_qkv
        for index, block in enumerate(self.blocks):
            x_SXD = replace_prompt(x_SXD, deep_SIMD, index, start=0)
            x_SXD = block(x_SXD, names, masks, names_qkv)
            names_qkv = None
        x_SXD = replace_prompt(x_SXD, deep_SIMD, len(self.blocks), start=0)
        return self.last.last(x_SXD, names, last_mask)


def additive(seen_XQL: Tensor, dtype: torch.dtype, n_replicas: int) -> Tensor:
    """Turn a mask of what is seen, of X sequences, into one that is added, `[S X, 1, Q, L]`."""
    mask_XQL = torch.zeros(seen_XQL.shape, dtype=dtype, device=seen_XQL.device)
    mask_XQL = mask_XQL.masked_fill_(~seen_XQL, float("-inf"))
    return mask_XQL.expand(n_replicas, -1, -1, -1).flatten(0, 1)[:, None]


def cut(x_SXD: Tensor, n_ctx: int) -> tuple[Tensor, Tensor]:
    """Cut `[S, X, ...]` into context and names; the backward pass joins them, without a sum."""
    context, names = torch.split(x_SXD, [n_ctx, x_SXD.shape[1] - n_ctx], dim=1)
    return context, names


def with_prefix(prefix_S1PD: Tensor, own_SXLD: Tensor) -> Tensor:
    """Put the prefix in front of each of X sequences: `[S, X, P + L, D]`."""
    prefix_SXPD = prefix_S1PD.expand(-1, own_SXLD.shape[1], -1, -1)
    return torch.cat([prefix_SXPD, own_SXLD], dim=2)
