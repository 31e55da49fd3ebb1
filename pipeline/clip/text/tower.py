"""The frozen text tower, run on learned contexts: exact, and without repeated work.

A causal tower with a shared context in front of the names computes the same states for
`SOS [context]` in every class. The shared path computes them once and lets every name attend
to their keys and values. Names are packed, several to a row, so that hardly a position is
padding, and a mask keeps them apart. In the last layer only the position that becomes the
class embedding is computed. All three are identities of a causal transformer, not
approximations. They also hold with deep prompts, which all classes share.

Shapes: X = P + L positions of a whole sequence, L of them behind the prefix.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.clip.config import BUDGET_BYTES
from pipeline.clip.deep_prompts import replace_prompt
from pipeline.clip.frozen_block import encode_parts, is_plain
from pipeline.clip.text.encoder import TextEncoder
from pipeline.clip.text.layout import Frame, read_layout
from pipeline.clip.text.packing import Names, PackedNames, PaddedNames, pack_tails
from pipeline.clip.text.shared_prefix import SharedPath

log = logging.getLogger(__name__)

Path = Literal["shared", "truncated", "full"]
PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final")
KEPT_PACKS = 32
"""Packed sets of names that a tower remembers."""
FLOATS_PER_POSITION = 24
"""Floats, in text widths, that a layer keeps of a position for the backward pass (tested)."""


class TextTower(TextEncoder):
    """A text tower of open_clip's own.

    The path is decided by inspecting the tower: `shared` for causal towers that pool at the end
    of the caption; `truncated` (every class on its own, to the longest name) for those whose
    blocks are not the usual ones; `full` (all positions) for towers without a causal mask.
    """

    attn_mask: Tensor | None
    positional_embedding: Tensor
    start_OD: Tensor

    def __init__(self, text: Any, frame: Frame, budget_bytes: int = BUDGET_BYTES) -> None:
        """Wrap an open_clip `CLIP` or `TextTransformer`; its weights are shared and frozen.

        Args:
            text: the text tower, or the model that contains its parts.
            frame: what the tower's tokenizer puts around a caption.
            budget_bytes: what a pass may keep for the backward pass; see `TextEncoder`.

        Raises:
            ValueError: if the tower has no token table or transformer of its own to run on
                embeddings (Hugging Face text encoders), or its tokenizer is another's.
        """
        if missing := [part for part in PARTS if not hasattr(text, part)]:
            raise ValueError(
                f"text tower {type(text).__name__}: cannot read learned contexts (no "
                f"{', '.join(missing)}); expected open_clip's own text transformers"
            )
        layout = read_layout(text, frame)
        super().__init__(frame, layout.context_length, budget_bytes)
        self.layout = layout
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.cls_emb: nn.Parameter | None = getattr(text, "cls_emb", None)
        self.blocks: Any = text.transformer.resblocks
        self.n_blocks = len(self.blocks)
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self.path, reason = choose_path(self)
        log.info("text path: %s (%s)", self.path, reason)
        start_OD = self.embed(list(frame.sos)) + self.positional_embedding[: len(frame.sos)].float()
        self.register_buffer("start_OD", start_OD.detach(), persistent=False)
        if self.path == "shared":
            self.shared = SharedPath(self.blocks, self.start_OD)
        self._packed: dict[Any, Names] = {}
        self.requires_grad_(False)

    def pack(self, names: list[list[int]], n_ctx: int) -> Names:
        """Pack the token ids of K names (full stop included, SOS and EOS not) behind M tokens.

        The last few results are remembered: trials ask for the same names again and again.

        Raises:
            ValueError: if a name is empty or does not fit behind the context.
        """
        key = (tuple(map(tuple, names)), n_ctx, self.device)
        if key not in self._packed:
            if len(self._packed) >= KEPT_PACKS:
                del self._packed[next(iter(self._packed))]
            self._packed[key] = self._pack(names, n_ctx)
        return self._packed[key]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without packed names: every process makes its own."""
        return {**self.__dict__, "_packed": {}}

    def _pack(self, names: list[list[int]], n_ctx: int) -> Names:
        self.frame.check(names, self.room(n_ctx))
        layout, n_prefix = self.layout, self.layout.n_prefix(n_ctx)
        if self.path == "shared":
            tails = [layout.tail(name, n_ctx, self._states) for name in names]
            packed = pack_tails(tails, n_prefix, n_ctx)
            return replace(packed, first_qkv=self.shared.first_qkv(packed.embeddings_YZD))
        longest = max(len(name) for name in names) + len(self.frame.eos)
        if self.path == "full":
            longest = self.context_length - n_prefix
        return layout.pad(names, n_ctx, longest, self._states, self.attn_mask)

    def _states(self, ids: list[int]) -> Tensor:
        """Return word plus position embeddings of a whole sequence, `[X, D]`."""
        states_XD = self.embed(ids)
        if self.cls_emb is not None:
            states_XD = torch.cat([states_XD, self.cls_emb[None].float()])
        return states_XD + self.positional_embedding[: len(states_XD)].float()

    def forward(self, context_SMD: Tensor, names: Names, deep_SIMD: Tensor | None = None) -> Tensor:
        """Return the class embeddings of S contexts, `[S, K, E]`, not normalized.

        Equal to the plain full-length path of the tower up to rounding (tests/reference.py).

        Args:
            context_SMD: embeddings in the place of words', their positions not added.
            names: the classes.
            deep_SIMD: deep prompts, which all classes share (MaPLe, arXiv 2210.03117): before
                block i = 1..I, counted from 0, they replace the states of the context as they
                are, without positions. I may be 0.

        Raises:
            ValueError: if there are more deep prompts than blocks behind the first.
        """
        assert context_SMD.shape[1] == names.n_ctx, "names were packed for another n_ctx"
        if deep_SIMD is not None:
            assert deep_SIMD.shape[::2] == context_SMD.shape[:2], "deep prompts fit the context"
            self.check_depth(1 + deep_SIMD.shape[1])
        start = len(self.frame.sos)
        position_MD = self.positional_embedding[start : start + names.n_ctx].float()
        context_SMD = context_SMD + position_MD
        size = self._part_size(len(context_SMD), names)
        if size >= names.n_parts or not torch.is_grad_enabled():
            return self._encode(context_SMD, names, deep_SIMD)[:, names.order_K]
        parts = [
            (context_SMD, names.part(start, start + size), deep_SIMD)
            for start in range(0, names.n_parts, size)
        ]
        return encode_parts(self._encode, parts)[:, names.order_K]

    def _part_size(self, n_replicas: int, names: Names) -> int:
        """Return how many parts of the names fit the budget at once, at least one."""
        per_part = names.n_positions / names.n_parts + names.n_ctx
        n_bytes = 4 * FLOATS_PER_POSITION * self.width * len(self.blocks) * per_part * n_replicas
        return max(1, int(self.budget_bytes // n_bytes))

    def _encode(self, context_SMD: Tensor, names: Names, deep_SIMD: Tensor | None) -> Tensor:
        """Return the embeddings `[S, K, E]` of classes in the order of `names`."""
        if isinstance(names, PackedNames):
            class_SKD = self.shared(context_SMD, names, deep_SIMD)
        else:
            class_SKD = self._encode_padded(context_SMD, names, deep_SIMD)
        class_SKE: Tensor = self.ln_final(class_SKD)
        if isinstance(self.text_projection, nn.Linear):
            class_SKE = self.text_projection(class_SKE)
        elif self.text_projection is not None:
            class_SKE = class_SKE @ self.text_projection
        return class_SKE

    def _encode_padded(
        self, context_SMD: Tensor, names: PaddedNames, deep_SIMD: Tensor | None
    ) -> Tensor:
        """Run every class on its own through the tower's blocks; return `[S, K, D]`."""
        n_replicas, n_classes = len(context_SMD), len(names.pooled_K)
        start_SOD = self.start_OD.expand(n_replicas, -1, -1)
        prefix_SPD = torch.cat([start_SOD, context_SMD], dim=1)
        prefix_SKPD = prefix_SPD[:, None].expand(-1, n_classes, -1, -1)
        rest_SKLD = names.embeddings_KLD.expand(n_replicas, -1, -1, -1)
        x_SKXD = torch.cat([prefix_SKPD, rest_SKLD], dim=2)
        deep_SI1MD = None if deep_SIMD is None else deep_SIMD[:, :, None]
        mask = names.mask
        if mask is not None and mask.ndim == 3:
            heads = self.blocks[0].attn.num_heads
            mask = mask.repeat(n_replicas, 1, 1).repeat_interleave(heads, dim=0)
        for index, block in enumerate(self.blocks):
            x_SKXD = replace_prompt(x_SKXD, deep_SI1MD, index, start=len(self.frame.sos))
            out = block(x_SKXD.flatten(0, 1), attn_mask=mask)
            x_SKXD = torch.unflatten(out, 0, (n_replicas, n_classes))
        return x_SKXD[:, torch.arange(n_classes, device=x_SKXD.device), names.pooled_K]


def is_causal(mask: Tensor) -> bool:
    """Return whether an additive mask `[L, L]` hides all to the right, and nothing else."""
    above = torch.triu(torch.ones_like(mask, dtype=torch.bool), diagonal=1)
    return bool((mask[above] == float("-inf")).all() and (mask[~above] == 0).all())


def choose_path(tower: TextTower) -> tuple[Path, str]:
    """Return the path that a tower allows, and the reason."""
    layout = tower.layout
    if tower.attn_mask is None:
        return "full", "the tower has no causal mask"
    if not is_causal(tower.attn_mask):
        return "full", "the tower's attention mask is not causal"
    if not layout.appended and layout.pool not in ("argmax", "eos"):
        return "full", f"the tower pools its {layout.pool} position, not EOS"
    if not layout.appended and not tower.frame.eos:
        return "full", "the tokenizer closes captions with padding alone"
    if not all(is_plain(block) for block in tower.blocks):
        if layout.appended:
            return "full", "the tower appends a class token, and its blocks are not the usual ones"
        return "truncated", "causal mask, but the blocks are not the usual ones"
    end = "an appended class token" if layout.appended else "EOS"
    return "shared", f"causal mask, pooled at {end}"
