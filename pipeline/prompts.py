"""The prompts: context_MD = quantize(reparameterize(init_MD)), one family for all methods.

    method                rank   bits
    CoOp                  full   16     arXiv 2109.01134
    RLP                   R      16     arXiv 2312.10813
    QCoOp                 full   1..8   arXiv 2407.10704
    low-rank quantized    R      1..8   ours

Shapes: M context tokens, D text width, R rank.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.quantize import Bits, Quantizer, QuantizerConfig
from pipeline.stored_prompt import StoredPrompt, StoredTensor

Rank = Literal["full"] | int


class PromptConfig(Config):
    """One point of the family."""

    init: str = Field(min_length=1)
    """Words whose embeddings start the context, for instance "a photo of a"."""
    rank: Rank
    bits: Bits
    n_ctx: int = Field(ge=1)
    quantizer: QuantizerConfig = QuantizerConfig()

    def infeasible(self) -> str | None:
        """Return why this point does not exist, or None."""
        if self.rank != "full" and not 1 <= self.rank <= self.n_ctx:
            return f"rank {self.rank} with n_ctx {self.n_ctx}: allowed are 1 to n_ctx, or full"
        return None


def low_rank_context(init_MD: Tensor, left_MR: Tensor, right_RD: Tensor) -> Tensor:
    """Add a low-rank update to a frozen context.

    context = init + U V   (RLP, arXiv 2312.10813; U = left, V = right)

    Args:
        init_MD: `[M, D]` word embeddings of the template, never trained.
        left_MR: `[M, R]` factor.
        right_RD: `[R, D]` factor.

    Returns:
        `[M, D]`; differs from `init_MD` by a matrix of rank at most R.

    Raises:
        ValueError: if R is 0 or larger than min(M, D).
    """
    rank, allowed = left_MR.shape[1], min(init_MD.shape)
    if not 1 <= rank <= allowed:
        raise ValueError(f"rank {rank}: allowed are 1 to min(n_ctx, width) = {allowed}")
    return init_MD + left_MR @ right_RD


def init_tokens(words: list[int], n_ctx: int) -> list[int]:
    """Fit the token ids of the template's words to M tokens.

    The last word stays next to the name: a short context keeps the end of the template, a
    long one repeats it from the front. Nothing is drawn, so the template's text alone
    reproduces the start and it costs no storage.
    """
    repeats = -(-n_ctx // len(words))
    return (words * repeats)[-n_ctx:]


class Prompt(nn.Module):
    """A trainable context: full or low rank, quantized or not.

    Only the parameters of the reparameterization train: M D of them (full), or R (M + D). A
    low-rank prompt starts exactly at the template, since its right factor starts at zero.
    """

    init_MD: Tensor

    def __init__(self, config: PromptConfig, init_MD: Tensor, seed: int) -> None:
        """Build the prompt at its start.

        Args:
            config: the point of the family.
            init_MD: `[M, D]` embeddings of the template's tokens.
            seed: of the left factor, normal(0, 1 / R).

        Raises:
            ValueError: if the rank does not fit M and D.
        """
        super().__init__()
        self.config = config
        self.register_buffer("init_MD", init_MD.detach().clone())
        self.factors = nn.ParameterDict()
        if config.rank == "full":
            self.factors["context_MD"] = nn.Parameter(init_MD.detach().clone())
        else:
            generator = torch.Generator().manual_seed(seed)
            left_MR = torch.randn(len(init_MD), config.rank, generator=generator)
            self.factors["left_MR"] = nn.Parameter((left_MR / config.rank**0.5).to(init_MD))
            self.factors["right_RD"] = nn.Parameter(
                init_MD.new_zeros(config.rank, init_MD.shape[1])
            )
        self.quantizers = nn.ModuleDict()
        if config.bits < 16:
            for name in self.factors:
                self.quantizers[name] = Quantizer(config.bits, config.quantizer).to(init_MD.device)
        self.forward()  # a rank that does not fit is an error now, not after the first epoch

    def forward(self) -> Tensor:
        """Return the context `[M, D]` that the text tower reads."""
        values = {
            name: self.quantizers[name](factor) if name in self.quantizers else factor
            for name, factor in self.factors.items()
        }
        return merge(self.init_MD, values)

    @torch.no_grad()
    def store(self) -> StoredPrompt:
        """Return the prompt as it is stored: codes and half-precision codebooks or values."""
        tensors = {}
        for name, factor in self.factors.items():
            if name in self.quantizers:
                quantizer = self.quantizers[name]
                assert isinstance(quantizer, Quantizer)
                codes, codebook_C = quantizer.codebook(factor)
                tensors[name] = StoredTensor.from_codes(
                    codes, codebook_C[None], int(self.config.bits)
                )
            else:
                tensors[name] = StoredTensor.from_values(factor)
        return StoredPrompt(self.config.init, self.config.n_ctx, tensors)


def merge(init_MD: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return the plain context `[M, D]` of a prompt's factors; without any, the template's.

    Raises:
        ValueError: if the prompt is coupled to the image tower: it is more than its context.
    """
    if "coupling_JWD" in values:
        raise ValueError(
            f"a prompt of {', '.join(values)} has no plain context: it goes into both towers"
        )
    if not values:
        return init_MD
    if "context_MD" in values:
        return values["context_MD"]
    return low_rank_context(init_MD, values["left_MR"], values["right_RD"])
