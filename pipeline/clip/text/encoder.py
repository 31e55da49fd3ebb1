"""What the two kinds of text towers have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.clip.text.layout import Frame


class TextEncoder(nn.Module):
    """A frozen text tower that encodes `SOS [context] name . EOS` for all classes.

    `pack` prepares class names, once for many passes; `forward(context_SMD, names, deep_SIMD)`
    returns class embeddings `[S, K, E]`.
    """

    token_embedding: nn.Embedding
    n_blocks: int
    """Blocks that can read deep prompts, the first included; 0 if none can."""

    def __init__(self, frame: Frame, context_length: int, budget_bytes: int) -> None:
        """Keep the sizes.

        Args:
            frame: what the tower's tokenizer puts around a caption.
            context_length: positions, SOS and EOS included, an appended class token not.
            budget_bytes: what a pass may keep for the backward pass. A pass over more classes or
                replicas than fit runs in parts, and the backward pass computes them again.
        """
        super().__init__()
        self.frame, self.context_length, self.budget_bytes = frame, context_length, budget_bytes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    @property
    def width(self) -> int:
        """D."""
        return self.token_embedding.embedding_dim

    def room(self, n_ctx: int) -> int:
        """Return how many tokens a name may have behind M context tokens."""
        return self.context_length - len(self.frame.sos) - len(self.frame.eos) - n_ctx

    def embed(self, tokens: list[int]) -> Tensor:
        """Return the word embeddings of token ids, `[len(tokens), D]`."""
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)
        embeddings: Tensor = self.token_embedding(ids)
        return embeddings.float()

    def check_depth(self, depth: int) -> None:
        """Refuse prompts in more layers than there are blocks that can read them.

        Raises:
            ValueError: naming both numbers.
        """
        if depth > self.n_blocks:
            raise ValueError(
                f"deep text prompts: got {depth} layers; expected at most {self.n_blocks}, the "
                f"blocks of {type(self).__name__} that can read them"
            )

    def pack(self, names: list[list[int]], n_ctx: int) -> Any:
        """Prepare the token ids of K names (full stop included, SOS and EOS not) behind M tokens.

        Raises:
            ValueError: if a name is empty or does not fit behind the context.
        """
        raise NotImplementedError
