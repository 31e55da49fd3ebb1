"""The prompts: context_MD = quantize(reparameterize(init_MD)), one family for all methods.

    method                rank   bits   residual
    zero-shot CLIP        0      -      -          arXiv 2103.00020
    CoOp                  full   16     -          arXiv 2109.01134
    RLP                   R      16     -          arXiv 2312.10813
    Residual              full   16     H          arXiv 2305.03937
    QCoOp                 full   1..8   -          arXiv 2407.10704
    low-rank quantized    R      1..8   -, or H    ours
    MaPLe, QMaPLe         full   16, 4  -          arXiv 2210.03117, with depth J: coupling.py

The axes are independent; the named points are in params.yaml.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.prompts.config import Bits, LowRankConfig, PromptConfig
from pipeline.prompts.context import merge
from pipeline.prompts.coupling import Inputs, couple
from pipeline.prompts.quantizer import Quantizer, quantized_bytes
from pipeline.prompts.residual import Residual
from pipeline.prompts.stored import StoredPrompt, StoredTensor

DEEP_STD = 0.02
"""Standard deviation of deep text prompts at their start, as in MaPLe's public code."""


def start_left(config: LowRankConfig, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw the left factor `[M, R]`; the mean square of its rows is `left_scale` squared."""
    left_MR = torch.randn(*shape, generator=generator)
    if config.left_init == "orthogonal":
        left_MR = torch.linalg.qr(left_MR).Q * math.sqrt(shape[0])
    return left_MR * (config.left_scale / math.sqrt(shape[1]))


def start_coupling(
    depth: int, context_MD: Tensor, vision_width: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw the other factors of J = `depth` prompted layers, by their stored names.

    `(J - 1) M D + J W (D + 1)` scalars: deep prompts, normal(0, 0.02), and the coupling functions,
    uniform within 1 / sqrt(D) as in torch's linear layers. At J = 1 there are no deep prompts.
    """
    (n_ctx, width), bound = context_MD.shape, context_MD.shape[1] ** -0.5

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    drawn = {
        "deep_JMD": DEEP_STD * torch.randn(depth - 1, n_ctx, width, generator=generator),
        "coupling_JWD": bound * uniform(depth, vision_width, width),
        "bias_JW": bound * uniform(depth, vision_width),
    }
    return {name: values.to(context_MD) for name, values in drawn.items() if len(values)}


class Prompt(nn.Module):
    """A trainable context: full or low rank, residual or plain, quantized or not.

    Only the parameters of the reparameterization train: M D (full), R (M + D), or none, and those
    of the residual network. A low-rank prompt starts exactly at the template, since its right
    factor starts at zero.
    """

    init_MD: Tensor

    def __init__(
        self, config: PromptConfig, init_MD: Tensor, seed: int, vision_width: int = 0
    ) -> None:
        """Build the prompt at its start.

        Args:
            config: the point of the family.
            init_MD: `[M, D]` embeddings of the template's tokens.
            seed: of all random numbers: left factor, deep prompts, networks, dropout, noise.
            vision_width: W, of the image tower; needed if `config.depth`.

        Raises:
            ValueError: if the rank does not fit M and D.
        """
        super().__init__()
        self.config, self.seed = config, seed
        self.register_buffer("init_MD", init_MD.detach().clone())
        self.factors = nn.ParameterDict()
        self.residuals, self.quantizers = nn.ModuleDict(), nn.ModuleDict()
        self.draws = 0
        self._start(torch.Generator().manual_seed(seed), vision_width)
        merge(self.init_MD, dict(self.factors))  # raises for a rank that does not fit

    def _start(self, generator: torch.Generator, vision_width: int) -> None:
        config, init_MD, wide = self.config, self.init_MD, "context_MD"
        anchor_MD = torch.zeros_like(init_MD)
        if config.rank == "full":
            self.factors[wide] = nn.Parameter(init_MD.clone())
        elif config.rank:
            left_MR = start_left(config.low_rank, (len(init_MD), config.rank), generator)
            wide, anchor_MD = "right_RD", init_MD[-config.rank :]
            self.factors["left_MR"] = nn.Parameter(left_MR.to(init_MD))
            self.factors[wide] = nn.Parameter(torch.zeros_like(anchor_MD))
        if config.depth:
            assert vision_width, "prompts of both towers need the image tower's width"
            drawn = start_coupling(config.depth, init_MD, vision_width, generator)
            self.factors.update({name: nn.Parameter(values) for name, values in drawn.items()})
        if config.residual.hidden:
            self.residuals[wide] = Residual(config.residual, anchor_MD, generator)
        for name, factor in self.factors.items():
            if (bits := self.bits_of(name)) < 16:
                quantizer = Quantizer(bits, config.quantizer, len(factor))
                self.quantizers[name] = quantizer.to(init_MD.device)

    def bits_of(self, name: str) -> Bits:
        """Return the bits per stored scalar of a factor."""
        left, bits = self.config.low_rank.left_bits, self.config.bits
        if name != "left_MR":
            return bits
        if left != "auto":
            return left
        smaller = quantized_bytes(self.factors[name].numel(), bits) < 2 * self.factors[name].numel()
        return bits if smaller else 16

    def groups(self) -> list[dict[str, object]]:
        """Return the parameters in the optimizer's groups, each with its share of the rate."""
        slow = [p for name, p in self.factors.items() if name == "left_MR"]
        rest = [p for p in self.parameters() if all(p is not other for other in slow)]
        groups = [{"params": slow, "share": self.config.low_rank.left_lr}] if slow else []
        return [*groups, {"params": rest, "share": 1.0}]

    def folded(self) -> dict[str, Tensor]:
        """Return the factors with the output of the residual network added."""
        return {
            name: self.residuals[name](factor) if name in self.residuals else factor
            for name, factor in self.factors.items()
        }

    def values(self) -> dict[str, Tensor]:
        """Return the factors folded and quantized, as the text tower reads them."""
        return {
            name: self.quantizers[name](value) if name in self.quantizers else value
            for name, value in self.folded().items()
        }

    def inputs(self) -> Inputs:
        """Return what the towers read; in training, with dropout and noise on the context."""
        values = self.values()
        context_MD = merge(self.init_MD, values)
        return couple(self.disturb(context_MD) if self.training else context_MD, values)

    def forward(self) -> Tensor:
        """Return the context `[M, D]` that the text tower reads first."""
        return self.inputs().context_MD

    def disturb(self, context_MD: Tensor) -> Tensor:
        """Drop entries of the update `[M, D]` and add noise, different ones in every call."""
        config = self.config
        if not (config.dropout or config.noise_std):
            return context_MD
        self.draws += 1
        generator = torch.Generator(context_MD.device).manual_seed(self.seed + 2**20 * self.draws)
        if config.dropout:
            drawn_MD = torch.rand(context_MD.shape, generator=generator, device=context_MD.device)
            kept_MD = (drawn_MD >= config.dropout) / (1 - config.dropout)
            context_MD = self.init_MD + kept_MD * (context_MD - self.init_MD)
        if config.noise_std:
            drawn_MD = torch.randn(context_MD.shape, generator=generator, device=context_MD.device)
            context_MD = context_MD + config.noise_std * drawn_MD
        return context_MD

    @torch.no_grad()
    def store(self) -> StoredPrompt:
        """Return the prompt as it is stored: codes and half-precision codebooks or values.

        The residual network is folded into its factor and not stored.
        """
        tensors = {}
        for name, value in self.folded().items():
            if name in self.quantizers:
                quantizer = self.quantizers[name]
                assert isinstance(quantizer, Quantizer)
                codes, codebook_GC = quantizer.codebook(value)
                tensors[name] = StoredTensor.from_codes(codes, codebook_GC, self.bits_of(name))
            else:
                tensors[name] = StoredTensor.from_values(value)
        return StoredPrompt(self.config.init, self.config.n_ctx, tensors)
