"""The frozen image tower, run with deep vision prompts: exact, with fixed parts computed once.

MaPLe (arXiv 2210.03117), as its public code runs it. The prompts of the first layer are appended to
an image's tokens when they enter `ln_pre`; before each of the next blocks their states are
replaced by that layer's prompts, unchanged. All positions see each other, so every pass computes
all blocks; patches, class token and positions are computed once.

Shapes: L image tokens (class token and patches), X = L + M positions in all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clip.config import BUDGET_BYTES
from pipeline.clip.deep_prompts import replace_prompt
from pipeline.clip.frozen_block import FrozenBlock, attend, encode_parts, is_plain

PARTS = (
    "conv1",
    "class_embedding",
    "positional_embedding",
    "ln_pre",
    "transformer",
    "ln_post",
    "proj",
)
FLOATS_PER_POSITION = 16
"""Floats, in widths, that a block keeps of a position for the backward pass (tested)."""


class VisionBlock(FrozenBlock):
    """A block in which all positions of an image see each other."""

    def forward(self, x_SBXW: Tensor) -> Tensor:
        """Return the next states `[S, B, X, W]`."""
        query_SBXW, key_SBXW, value_SBXW = self.qkv(x_SBXW).chunk(3, dim=-1)
        return self.finish(x_SBXW, attend(query_SBXW, key_SBXW, value_SBXW, None, self.heads))


class LastVisionBlock(FrozenBlock):
    """The last block, computed at the class token alone: nothing reads the others."""

    def __init__(self, block: Any) -> None:
        """Share the block's weights."""
        super().__init__(block)
        self.split_queries()

    def forward(self, x_SBXW: Tensor) -> Tensor:
        """Return the next states of the class tokens, `[S, B, 1, W]`."""
        hidden_SBXW = self.ln_1(x_SBXW)
        query_SB1W = self.query_proj(hidden_SBXW[:, :, :1])
        key_SBXW, value_SBXW = self.memory_proj(hidden_SBXW).chunk(2, dim=-1)
        attended_SB1W = attend(query_SB1W, key_SBXW, value_SBXW, None, self.heads)
        return self.finish(x_SBXW[:, :, :1], attended_SB1W)


class VisionTower(nn.Module):
    """A frozen open_clip vision transformer that encodes images beside learned prompts."""

    def __init__(self, visual: Any, budget_bytes: int = BUDGET_BYTES) -> None:
        """Wrap open_clip's `VisionTransformer`; its weights are shared and frozen.

        Args:
            visual: the image tower of a model.
            budget_bytes: what a pass may keep for the backward pass. A pass over more images or
                replicas than fit runs in parts, and the backward pass computes them again.

        Raises:
            ValueError: if prompts in this tower would not give what its own code gives.
        """
        super().__init__()
        check_visual(visual)
        self.budget_bytes = budget_bytes
        self.conv1, self.ln_pre = visual.conv1, visual.ln_pre
        self.class_embedding: nn.Parameter = visual.class_embedding
        self.positional_embedding: nn.Parameter = visual.positional_embedding
        *blocks, last = visual.transformer.resblocks
        self.blocks = nn.ModuleList([*map(VisionBlock, blocks), LastVisionBlock(last)])
        self.ln_post = visual.ln_post
        self.proj: nn.Parameter | None = visual.proj
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.positional_embedding.device

    @property
    def width(self) -> int:
        """W."""
        return int(self.positional_embedding.shape[1])

    @property
    def n_tokens(self) -> int:
        """L."""
        return int(self.positional_embedding.shape[0])

    @torch.no_grad()
    def embed(self, pictures_N3HW: Tensor) -> Tensor:
        """Return what enters the first block of pictures, `[N, L, W]`, whatever the prompts.

        Class token and patches, with positions, through `ln_pre`, which treats each alone; in the
        precision of the weights, under autocast too.
        """
        patches_NWL = self.conv1(pictures_N3HW).flatten(2)
        # len() instead of shape[0] would fix N in an export
        class_N1W = self.class_embedding.expand(pictures_N3HW.shape[0], 1, -1)
        x_NLW = torch.cat([class_N1W, patches_NWL.transpose(1, 2)], dim=1)
        token_NLW: Tensor = self.ln_pre(x_NLW + self.positional_embedding)
        return token_NLW

    def forward(self, token_SBLW: Tensor, prompt_SJMW: Tensor) -> Tensor:
        """Return the image embeddings of S replicas, `[S, B, E]`, not normalized.

        Equal to the tower's own code with prompts in its input, up to rounding
        (tests/reference.py). Replicas do not see each other, nor do images.

        Args:
            token_SBLW: each replica's images, as `embed` returns them.
            prompt_SJMW: each replica's prompts: the first are appended to what enters `ln_pre`;
                before block i = 1..J-1, counted from 0, `prompt_SJMW[:, i]` replaces their
                states.

        Raises:
            ValueError: if there are prompts for more layers than there are blocks, or for none.
        """
        (n_replicas, n_images, *_), (_, depth, n_ctx, _) = token_SBLW.shape, prompt_SJMW.shape
        assert (n_replicas, self.width) == prompt_SJMW.shape[::3], "prompts of other images"
        if not 1 <= depth <= len(self.blocks):
            raise ValueError(
                f"vision prompts: got {depth} layers; expected 1 to {len(self.blocks)}, its blocks"
            )
        n_chunks = -(-n_images // self.images_per_chunk(n_replicas, n_ctx))
        if n_chunks <= 1:
            return self.encode_at_once(token_SBLW, prompt_SJMW)
        parts = [(part, prompt_SJMW) for part in token_SBLW.chunk(n_chunks, dim=1)]
        return encode_parts(self.encode_at_once, parts)

    def images_per_chunk(self, n_replicas: int, n_ctx: int) -> int:
        """Return how many images of each replica fit the budget at once, at least one.

        Without gradients only one block's states exist at a time.
        """
        n_blocks = len(self.blocks) if torch.is_grad_enabled() else 1
        per_image = 4 * FLOATS_PER_POSITION * self.width * (self.n_tokens + n_ctx) * n_blocks
        return max(1, self.budget_bytes // (per_image * n_replicas))

    def encode_at_once(self, token_SBLW: Tensor, prompt_SJMW: Tensor) -> Tensor:
        """Do the work of `forward` without parts."""
        first_S1MW = self.ln_pre(prompt_SJMW[:, 0])[:, None]
        first_SBMW = first_S1MW.expand(-1, token_SBLW.shape[1], -1, -1)
        x_SBXW = torch.cat([token_SBLW, first_SBMW], dim=2)
        deep_SI1MW = prompt_SJMW[:, 1:, None]
        for index, block in enumerate(self.blocks):
            x_SBXW = block(replace_prompt(x_SBXW, deep_SI1MW, index, start=token_SBLW.shape[2]))
        pooled_SBW: Tensor = self.ln_post(x_SBXW[:, :, 0])
        return pooled_SBW if self.proj is None else pooled_SBW @ self.proj


def encode_tokens(vision: VisionTower, token_SBLW: Tensor, prompt_SJMW: Tensor) -> Tensor:
    """Return the unit features `[S, B, E]` of images beside each replica's prompts, float32."""
    return F.normalize(vision(token_SBLW, prompt_SJMW).float(), dim=-1)


def check_visual(visual: Any) -> None:
    """Refuse towers that pool or compute in another way than `VisionTower`.

    Raises:
        ValueError: naming the difference.
    """
    missing = [part for part in PARTS if not hasattr(visual, part)]
    dropout = getattr(visual, "patch_dropout", None)
    reason = ""
    if missing:
        reason = f"it has no {', '.join(missing)}"
    elif visual.attn_pool is not None:
        reason = "it pools by attention"
    elif visual.pool_type != "tok":
        reason = f"its pooling is {visual.pool_type!r}"
    elif getattr(dropout, "prob", 0) > 0 and getattr(dropout, "training", False):
        reason = "it drops patches while it trains"
    elif not all(is_plain(block) for block in visual.transformer.resblocks):
        reason = "its blocks are not the usual ones"
    if reason:
        raise ValueError(
            f"image tower {type(visual).__name__}: cannot read prompts ({reason}); expected one of "
            "open_clip's own vision transformers, pooled at the class token, in evaluation mode"
        )
