"""Scalar quantization of prompts with a learned codebook (QPrompt, arXiv 2407.10704).

Shapes: n scalars of each of G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.prompts.config import Bits, QuantizerConfig
from pipeline.prompts.kmeans import cluster, nearest

SMALLEST_STD = 1e-12
"""A tensor with a smaller one is constant."""


def quantized_bytes(n: int, bits: int, n_codebooks: int = 1) -> int:
    """Return the bytes of n codes and of their half-precision codebooks."""
    return -(-n * bits // 8) + n_codebooks * (2 << bits)


def code_shift(before_GC: Tensor, now_GC: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of histograms `[G, C]` of codes: the largest of G.

    KL(before || now), in nats, of counts with one added to each code, so that it is finite.
    """
    before, now = (
        torch.log((counts + 1) / (counts + 1).sum(-1, keepdim=True))
        for counts in (before_GC, now_GC)
    )
    return (before.exp() * (before - now)).sum(-1).max()


class Quantizer(nn.Module):
    """Round a tensor to 2^bits values; gradients pass straight through.

    w' = (w - mean) / std;  w_q = std * Q(w') + mean   (QPrompt, arXiv 2407.10704)

    Q maps each scalar to the nearest centroid of a k-means codebook. The forward value is w_q,
    the gradient that of w (straight-through estimator, arXiv 1308.3432). Constrained adaptive
    clustering: the codebook is recomputed only if at least `interval` steps have passed since
    the last time and the histogram of codes has moved by `kl_threshold`. A constant tensor has
    nothing to cluster: it stays as it is, and its first change creates the first codebook.
    """

    centroids_GC: Tensor
    counts_GC: Tensor
    age: Tensor

    def __init__(self, bits: Bits, config: QuantizerConfig, n_rows: int = 1) -> None:
        """Start with the quantiles of a normal distribution as centroids.

        Args:
            bits: per scalar, 1 to 8.
            config: how.
            n_rows: of the tensor; with `codebooks: row`, each has a codebook.
        """
        super().__init__()
        assert bits < 16, "16 bits means that there is no quantizer"
        self.config = config
        n_groups = n_rows if config.codebooks == "row" else 1
        middle = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
        normal_C = torch.special.ndtri(middle).float()
        self.register_buffer("centroids_GC", normal_C.repeat(n_groups, 1))
        self.register_buffer("counts_GC", torch.zeros(n_groups, 2**bits))
        self.register_buffer("age", torch.tensor(-1))  # steps since the last clustering; -1: none

    def codebook(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of `weight` (its shape) and the codebooks `[G, C]` in its units."""
        scaled_Gn, mean_G1, std_G1 = self._scale(weight.detach())
        centroids_GC = self.centroids_GC
        if self.config.mode == "ptq" or self.age < 0:
            centroids_GC = self._cluster(scaled_Gn)
        codes_Gn = _codes(scaled_Gn, centroids_GC)
        return codes_Gn.view(weight.shape), std_G1 * centroids_GC + mean_G1

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight, any shape kept; while `ptq` trains, the weight itself."""
        if not self.training:
            codes, codebook_GC = self.codebook(weight)
            return codebook_GC.gather(1, codes.view(len(codebook_GC), -1)).view(weight.shape)
        if self.config.mode == "ptq":
            return weight
        scaled_Gn, mean_G1, std_G1 = self._scale(weight.detach())
        self._adapt(scaled_Gn)
        rounded_Gn = self.centroids_GC.gather(1, _codes(scaled_Gn, self.centroids_GC))
        rounded = (std_G1 * rounded_Gn + mean_G1).view(weight.shape)
        return weight + torch.where(self.age < 0, 0.0, rounded - weight.detach())

    def _scale(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return w' as `[G, n]`, and the mean and std that restore it, `[G, 1]`."""
        weight_Gn = weight.reshape(len(self.centroids_GC), -1)
        if not self.config.normalize:
            zero_G1 = weight_Gn.new_zeros(len(weight_Gn), 1)
            return weight_Gn, zero_G1, zero_G1 + 1
        mean_G1 = weight_Gn.mean(-1, keepdim=True)
        std_G1 = weight_Gn.std(-1, correction=0, keepdim=True)
        return (weight_Gn - mean_G1) / std_G1.clamp(min=SMALLEST_STD), mean_G1, std_G1

    def _cluster(self, scaled_Gn: Tensor) -> Tensor:
        pairs = zip(scaled_Gn, self.centroids_GC, strict=True)
        return torch.stack([cluster(scaled_n, centroids_C) for scaled_n, centroids_C in pairs])

    def _adapt(self, scaled_Gn: Tensor) -> None:
        """Count a step, and recompute the codebooks if they are due.

        The device decides, without a wait. On a CPU, where reading the decision costs nothing, it
        also saves the clustering.
        """
        on_cpu = scaled_Gn.device.type == "cpu"
        self.age += self.age >= 0
        if on_cpu and 0 <= self.age.numpy() < self.config.interval:
            return
        varies = (scaled_Gn.amax(-1) - scaled_Gn.amin(-1)).amin() > SMALLEST_STD
        shift = code_shift(self.counts_GC, self._count(scaled_Gn, self.centroids_GC))
        moved = (self.age >= self.config.interval) & (shift >= self.config.kl_threshold)
        due = torch.where(self.age < 0, varies, moved)
        if on_cpu and not due.numpy():
            return
        centroids_GC = self._cluster(scaled_Gn)
        self.centroids_GC = torch.where(due, centroids_GC, self.centroids_GC)
        self.counts_GC = torch.where(due, self._count(scaled_Gn, centroids_GC), self.counts_GC)
        self.age = torch.where(due, torch.zeros_like(self.age), self.age)

    def _count(self, scaled_Gn: Tensor, centroids_GC: Tensor) -> Tensor:
        """Return the number of occurrences of each code, `[G, C]`."""
        codes_Gn = _codes(scaled_Gn, centroids_GC)
        ones_Gn = torch.ones_like(scaled_Gn)
        return torch.zeros_like(self.counts_GC).scatter_add(1, codes_Gn, ones_Gn)


def _codes(scaled_Gn: Tensor, centroids_GC: Tensor) -> Tensor:
    pairs = zip(scaled_Gn, centroids_GC, strict=True)
    return torch.stack([nearest(scaled_n, centroids_C) for scaled_n, centroids_C in pairs])
