"""The settings of the prompts: one point of the family."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.core.config import Config

Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 16]
"""Bits per stored scalar; 16 means no codebook, plain half precision."""


class QuantizerConfig(Config):
    """How values are rounded, and when the codebook is recomputed."""

    mode: Literal["qat", "ptq"] = "qat"
    """Quantization-aware training, or full precision until the prompt is stored."""
    normalize: bool = True
    """Whether the codebook is in units of mean and standard deviation, and moves with them."""
    interval: int = Field(default=10, ge=1)
    """Fewest steps between two clusterings (the paper's t; its value is not published)."""
    kl_threshold: float = Field(default=0.01, ge=0)
    """Shift of the codes' histogram below which a codebook stays (the paper's T_KL, not published).
    With 0, and interval 1, the codebook is recomputed at every step."""
    codebooks: Literal["tensor", "row"] = "tensor"
    """One codebook for a whole factor, or one for each of its rows."""


class ResidualConfig(Config):
    """The network beside the prompt; it is folded into the prompt after training."""

    hidden: int = Field(default=0, ge=0)
    """Bottleneck H; 0: no network."""
    shared: bool = True
    """One network for all rows, or one for each row."""
    layer_norm: bool = True


Rank = Literal["full"] | Annotated[int, Field(ge=0)]


class LowRankConfig(Config):
    """How the left factor U of `init + U V` starts, trains and is stored. V starts at zero."""

    left_init: Literal["normal", "orthogonal"] = "normal"
    """Independent entries of variance 1 / R, or orthogonal columns of the same mean square."""
    left_scale: float = Field(default=1.0, gt=0)
    """Factor on the start of U. The steps of V grow with its square."""
    left_lr: float = Field(default=1.0, ge=0)
    """Learning rate of U, as a multiple of V's; 0 fixes its random start."""
    left_bits: Bits | Literal["auto"] = "auto"
    """Bits of U; `auto` is those of V, unless codes and codebook would be larger than U itself."""


class PromptConfig(Config):
    """One point of the family."""

    init: str = Field(min_length=1)
    """Words whose embeddings start the context, for instance "a photo of a"."""
    rank: Rank
    """Of the update of the template: full, or 1, 2, ...; 0 is no update (zero-shot)."""
    bits: Bits
    n_ctx: int = Field(ge=1)
    depth: int = Field(default=0, ge=0)
    """Layers of both towers that read prompts of their own (MaPLe); 0: the text's input alone."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the update's entries that a training step drops (RLP)."""
    noise_std: float = Field(default=0.0, ge=0)
    """Gaussian noise on the context while training (the control of QPrompt)."""
    low_rank: LowRankConfig = LowRankConfig()
    residual: ResidualConfig = ResidualConfig()
    quantizer: QuantizerConfig = QuantizerConfig()

    def infeasible(self) -> str | None:
        """Return why this point is impossible, or None."""
        if self.rank != "full" and self.rank > self.n_ctx:
            return f"rank {self.rank} with n_ctx {self.n_ctx}; expected 0 to n_ctx, or full"
        if self.rank == 0 and self.residual.hidden:
            return f"residual.hidden {self.residual.hidden} with rank 0: there is nothing to train"
        if self.depth and (self.rank != "full" or self.residual.hidden):
            return f"depth {self.depth}; expected 0, or rank full and residual.hidden 0"
        return None
