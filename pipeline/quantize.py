"""Scalar quantization of prompts with a learned codebook (QPrompt, arXiv 2407.10704).

Shapes: n scalars, C = 2^bits centroids.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Config

Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 16]
"""Bits per stored scalar; 16 means no codebook, plain half precision."""


class QuantizerConfig(Config):
    """When the codebook is recomputed."""

    interval: int = Field(default=10, ge=1)
    """Steps between two clusterings (the paper's t; its value is not published)."""


def nearest(values_n: Tensor, centroids_C: Tensor) -> Tensor:
    """Return the index of the closest centroid of each value; centroids are sorted."""
    return torch.bucketize(values_n, (centroids_C[1:] + centroids_C[:-1]) / 2)


def kmeans_1d(values_n: Tensor, centroids_C: Tensor, max_rounds: int = 100) -> Tensor:
    """Run Lloyd's algorithm on scalars until no value changes its cluster.

    Values are sorted once, so that a cluster is a run and its mean a difference of prefix sums.

    Args:
        values_n: the scalars.
        centroids_C: sorted start.
        max_rounds: a bound that real inputs do not reach; a GPU always goes through all.

    Returns:
        Sorted centroids `[C]`; an empty cluster keeps its centroid. The squared error is not
        above that of the start.
    """
    sorted_n = values_n.sort().values.double()
    prefix = torch.cat([sorted_n.new_zeros(1), sorted_n.cumsum(0)])
    centroids = centroids_C.double()
    edges = None
    for _ in range(max_rounds):
        middle = (centroids[1:] + centroids[:-1]) / 2
        inner = torch.searchsorted(sorted_n, middle, right=True)  # a tie goes down, as in nearest
        new_edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(sorted_n))])
        on_cpu = values_n.device.type == "cpu"  # elsewhere, looking would wait for the device
        if on_cpu and edges is not None and torch.equal(edges, new_edges):
            break
        edges = new_edges
        count = edges.diff()
        total = prefix[edges[1:]] - prefix[edges[:-1]]
        centroids = torch.where(count > 0, total / count.clamp(min=1), centroids)
    return centroids.to(centroids_C.dtype)


class Quantizer(nn.Module):
    """Round a tensor to 2^bits values; gradients pass straight through.

    w' = (w - mean) / std;  w_q = std * Q(w') + mean   (QPrompt, arXiv 2407.10704)

    Q maps each scalar to the nearest centroid of a k-means codebook, recomputed from the last
    one every `interval` steps of training (at every step before that: the spread grows early).
    The forward value is w_q, the gradient that of w (straight-through estimator, arXiv 1308.3432).
    """

    centroids_C: Tensor

    def __init__(self, bits: Bits, config: QuantizerConfig) -> None:
        """Start with the quantiles of a normal distribution as centroids."""
        super().__init__()
        assert bits < 16, "16 bits means that there is no quantizer"
        self.interval = config.interval
        self.steps = 0
        middle = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
        self.register_buffer("centroids_C", torch.special.ndtri(middle).float())

    def standardize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return w', mean and std; a constant tensor has std 1."""
        mean, std = weight.mean(), weight.std(correction=0)
        std = torch.where(std > 1e-12, std, torch.ones_like(std))
        return (weight - mean) / std, mean, std

    def codebook(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of `weight` (its shape, uint8) and the codebook `[C]` in its units."""
        scaled, mean, std = self.standardize(weight.detach())
        return nearest(scaled, self.centroids_C), std * self.centroids_C + mean

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight, same shape."""
        if self.training:
            if self.steps < self.interval or self.steps % self.interval == 0:
                scaled, _, _ = self.standardize(weight.detach())
                self.centroids_C = kmeans_1d(scaled.flatten(), self.centroids_C)
            self.steps += 1
        codes, codebook_C = self.codebook(weight)
        return weight + (codebook_C[codes] - weight).detach()
