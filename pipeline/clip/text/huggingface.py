"""Text towers from Hugging Face, run as they are: the last resort, exact for any encoder.

Shapes: X = S K sequences.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.clip.config import BUDGET_BYTES
from pipeline.clip.frozen_block import encode_parts
from pipeline.clip.text.encoder import TextEncoder
from pipeline.clip.text.layout import Frame

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WholeNames:
    """Whole captions of K classes, cut to the longest, with any words in the context's place.

    Attributes:
        token_KL: token ids.
        n_ctx: M.
    """

    token_KL: Tensor
    n_ctx: int


class WholeTower(TextEncoder):
    """A frozen encoder that runs whole captions through its own forward pass.

    The context takes the place of word embeddings as they leave the embedding table, so that
    everything after it (positions, masks, pooling, projection) is the tower's own.
    """

    path = "full"
    n_blocks = 0

    def __init__(
        self, text: Any, frame: Frame, context_length: int, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        """Wrap an open_clip `HFTextEncoder`; its weights are shared and frozen."""
        super().__init__(frame, context_length, budget_bytes)
        self.text = text
        self.token_embedding = text.transformer.get_input_embeddings()
        self.layers = int(text.config.num_hidden_layers)
        self.requires_grad_(False)
        log.info("text path: full (%s is not open_clip's own)", type(text.transformer).__name__)

    def pack(self, names: list[list[int]], n_ctx: int) -> WholeNames:
        """Return the captions of K names behind M tokens; see `TextEncoder.pack`."""
        self.frame.check(names, self.room(n_ctx))
        captions = [[*self.frame.sos, *[name[0]] * n_ctx, *name, *self.frame.eos] for name in names]
        longest = max(len(caption) for caption in captions)
        token_KL = torch.tensor(
            [caption + [self.frame.pad] * (longest - len(caption)) for caption in captions]
        )
        return WholeNames(token_KL.to(self.device), n_ctx)

    def forward(
        self, context_SMD: Tensor, names: WholeNames, deep_SIMD: Tensor | None = None
    ) -> Tensor:
        """Return the class embeddings of S contexts, `[S, K, E]`, not normalized.

        Raises:
            ValueError: if there are deep prompts, for which the blocks would be needed.
        """
        assert context_SMD.shape[1] == names.n_ctx, "names were packed for another n_ctx"
        if deep_SIMD is not None:
            self.check_depth(1 + deep_SIMD.shape[1])
        n_bytes = 100 * self.width * self.layers * names.token_KL.shape[1] * len(context_SMD)
        size = max(1, int(self.budget_bytes // n_bytes))
        if size >= len(names.token_KL) or not torch.is_grad_enabled():
            return self._encode(context_SMD, names.token_KL)
        parts = [(context_SMD, token_KL) for token_KL in torch.split(names.token_KL, size)]
        return encode_parts(self._encode, parts)

    def _encode(self, context_SMD: Tensor, token_KL: Tensor) -> Tensor:
        (n_replicas, n_ctx, width), n_classes = context_SMD.shape, len(token_KL)
        start = len(self.frame.sos)
        context_XMD = context_SMD[:, None].expand(-1, n_classes, -1, -1).reshape(-1, n_ctx, width)

        def put_context(_module: Any, _inputs: Any, embeddings_XLD: Tensor) -> Tensor:
            before, after = embeddings_XLD[:, :start], embeddings_XLD[:, start + n_ctx :]
            return torch.cat([before, context_XMD.to(embeddings_XLD.dtype), after], dim=1)

        hook = self.token_embedding.register_forward_hook(put_context)
        try:
            encoded = self.text(token_KL.repeat(n_replicas, 1))
        finally:
            hook.remove()
        pooled = encoded[0] if isinstance(encoded, tuple) else encoded
        return torch.unflatten(pooled, 0, (n_replicas, n_classes))
