"""One pass of a causal text tower in which all classes share the prefix.

What does not depend on the context is not computed again: the start tokens (they see nothing
but each other) in any block, and the names' queries, keys and values in the first block. Deep
prompts stand where the context does, so this holds with them, too.

Shapes: S replicas, J deep prompts, K classes, O start tokens, M context tokens, P = O + M prefix
positions, R rows of W packed positions, X = M + R W positions in a pass, L positions of the
longest name, D text width. In `additive`, N counts sequences, Q their queries, X their keys.
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

    start_OC: Tensor

    def __init__(self, block: Any) -> None:
        """Share the block's weights; `start` gives it the start tokens."""
        super().__init__(block)
        self.register_buffer("start_OC", torch.zeros(0, 2 * self.width), persistent=False)

    @torch.no_grad()
    def start(self, block: Any, x_OD: Tensor) -> Tensor:
        """Keep the keys and values of the start tokens; return their next states `[O, D]`."""
        width, bias = self.width, block.attn.in_proj_bias
        memory = F.linear(
            block.ln_1(x_OD),
            block.attn.in_proj_weight[width:],
            None if bias is None else bias[width:],
        )
        self.start_OC = memory
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
            masks: of the context, `[S, 1, M, P]`, and of the names, `[S R, 1, W, P + W]`.
            names_qkv: `[R, W, 3 D]` if the names' states are the same in every pass.
        """
        shape_RW = names.embeddings_RWD.shape[:2]
        if names_qkv is None:
            context, packed = cut(self.qkv(x_SXD), names.n_ctx)
            packed = torch.unflatten(packed, 1, shape_RW)
        else:
            context = self.qkv(x_SXD[:, : names.n_ctx])
            packed = names_qkv.to(context.dtype).expand(len(x_SXD), -1, -1, -1)
        query_S1MD, key_S1MD, value_S1MD = context[:, None].chunk(3, dim=-1)
        key_S1PD, value_S1PD = self.behind_start(key_S1MD, value_S1MD)
        context_S1MD = attend(query_S1MD, key_S1PD, value_S1PD, masks[0], self.heads)
        query_SRWD, key_SRWD, value_SRWD = packed.chunk(3, dim=-1)
        names_SRWD = attend(
            query_SRWD,
            behind(key_S1PD, key_SRWD),
            behind(value_S1PD, value_SRWD),
            masks[1],
            self.heads,
        )
        attended_SXD = torch.cat([context_S1MD.flatten(1, 2), names_SRWD.flatten(1, 2)], dim=1)
        return self.finish(x_SXD, attended_SXD)

    def behind_start(self, key_S1MD: Tensor, value_S1MD: Tensor) -> tuple[Tensor, Tensor]:
        """Put the start tokens in front of the context's keys and values: `[S, 1, P, D]`."""
        start = self.start_OC.to(key_S1MD.dtype).expand(len(key_S1MD), 1, -1, -1)
        start_key, start_value = start.chunk(2, dim=-1)
        return torch.cat([start_key, key_S1MD], 2), torch.cat([start_value, value_S1MD], 2)


class LastSharedBlock(SharedBlock):
    """The last block, computed only at the tokens that become class embeddings."""

    def __init__(self, block: Any) -> None:
        """Share the block's weights."""
        super().__init__(block)
        self.part_queries()

    def last(self, x_SXD: Tensor, names: PackedNames, mask: Tensor) -> Tensor:
        """Return the states `[S, K, D]` of the last tokens; the mask is `[S K, 1, 1, P + L]`."""
        hidden_SXD = self.ln_1(x_SXD)
        last_K = names.n_ctx + names.last_K
        query_SKD = self.query_proj(hidden_SXD[:, last_K])
        context, packed = cut(self.memory_proj(hidden_SXD), names.n_ctx)
        key_S1PD, value_S1PD = self.behind_start(*context[:, None].chunk(2, dim=-1))
        key_SKLD, value_SKLD = packed[:, names.token_KL].chunk(2, dim=-1)
        attended_SKD = attend(
            query_SKD[:, :, None],
            behind(key_S1PD, key_SKLD),
            behind(value_S1PD, value_SKLD),
            mask,
            self.heads,
        )[:, :, 0]
        return self.finish(x_SXD[:, last_K], attended_SKD)


class SharedPath(nn.Module):
    """All blocks of a causal tower, sharing the prefix, without padding."""

    def __init__(self, blocks: Any, start_OD: Tensor) -> None:
        """Share the blocks' weights; run the start tokens through them, once for all."""
        super().__init__()
        self.blocks = nn.ModuleList(SharedBlock(block) for block in blocks[:-1])
        self.last = LastSharedBlock(blocks[-1])
        for own, block in zip([*self.blocks, self.last], blocks, strict=True):
            start_OD = own.start(block, start_OD)

    @torch.no_grad()
    def first_qkv(self, embeddings_RWD: Tensor) -> Tensor | None:
        """Return what the first block makes of packed names in every pass, `[R, W, 3 D]`."""
        for block in self.blocks:
            assert isinstance(block, SharedBlock)
            return block.qkv(embeddings_RWD)
        return None

    def forward(
        self, context_SMD: Tensor, names: PackedNames, deep_SJMD: Tensor | None = None
    ) -> Tensor:
        """Return the states `[S, K, D]` that become class embeddings, in the rows' order.

        `context_SMD` has its positions added; deep prompts replace its states as they are.
        """
        device, dtype = context_SMD.device, context_SMD.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        n_ctx, n_start = names.n_ctx, len(self.last.start_OC)
        seen_1MP = torch.ones(1, n_ctx, n_start + n_ctx, dtype=torch.bool, device=device)
        n_replicas = len(context_SMD)
        masks = (
            additive(seen_1MP.tril(n_start), dtype, n_replicas),
            additive(names.mask_RWX, dtype, n_replicas),
        )
        last_mask = additive(names.seen_KX[:, None], dtype, n_replicas)
        names_SXD = names.embeddings_RWD.flatten(0, 1).expand(n_replicas, -1, -1)
        x_SXD, names_qkv = torch.cat([context_SMD, names_SXD], dim=1), names.first_qkv
        for index, block in enumerate(self.blocks):
            x_SXD = replace_prompt(x_SXD, deep_SJMD, index, start=0)
            x_SXD = block(x_SXD, names, masks, names_qkv)
            names_qkv = None
        x_SXD = replace_prompt(x_SXD, deep_SJMD, len(self.blocks), start=0)
        return self.last.last(x_SXD, names, last_mask)


def additive(seen_NQX: Tensor, dtype: torch.dtype, n_replicas: int) -> Tensor:
    """Turn a mask of what is seen into one that is added, `[S N, 1, Q, X]`, for all replicas."""
    mask_NQX = torch.zeros(seen_NQX.shape, dtype=dtype, device=seen_NQX.device)
    mask_NQX = mask_NQX.masked_fill_(~seen_NQX, float("-inf"))
    return mask_NQX.expand(n_replicas, -1, -1, -1).flatten(0, 1)[:, None]


def cut(x_SXD: Tensor, n_ctx: int) -> tuple[Tensor, Tensor]:
    """Cut `[S, X, ...]` into context and names; on the way back they are joined, not added."""
    context, names = torch.split(x_SXD, [n_ctx, x_SXD.shape[1] - n_ctx], dim=1)
    return context, names


def behind(prefix_S1PD: Tensor, own_SNLD: Tensor) -> Tensor:
    """Put the prefix in front of every sequence: `[S, N, P + L, D]`."""
    prefix_SNPD = prefix_S1PD.expand(-1, own_SNLD.shape[1], -1, -1)
    return torch.cat([prefix_SNPD, own_SNLD], dim=2)
