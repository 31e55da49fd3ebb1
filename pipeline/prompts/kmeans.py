"""k-means on scalars: exact by dynamic programming, or Lloyd's algorithm where that is too slow.

Shapes: n scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_EXACT = 4096
"""Scalars up to which the table of all runs is stored: 128 MiB."""
MAX_WORK = 2**27
"""Additions (n^2 C) up to which the exact solution is used: tens of milliseconds."""


def nearest(values: Tensor, centroids_C: Tensor) -> Tensor:
    """Return the index of the closest centroid of each value, same shape; centroids are sorted."""
    return torch.bucketize(values, (centroids_C[1:] + centroids_C[:-1]) / 2)


def cluster(values_n: Tensor, centroids_C: Tensor) -> Tensor:
    """Return sorted centroids `[C]` of the scalars.

    They are optimal if n or C is small, else those that Lloyd's algorithm reaches from the given
    ones. Nothing waits for the device.
    """
    n, size = len(values_n), len(centroids_C)
    if size <= 2 or (n <= MAX_EXACT and n * n * size <= MAX_WORK):
        return exact_kmeans(values_n, size).to(centroids_C.dtype)
    return lloyd(values_n, centroids_C)


def exact_kmeans(values_n: Tensor, size: int) -> Tensor:
    """Return the centroids `[size]` of least squared error, sorted, float64.

    In one dimension a cluster is a run of sorted values, and with error(i, j) of the run i to j - 1
    the best split of the first j values into c runs follows from that into c - 1
    (Wang and Song, Ckmeans.1d.dp, The R Journal 2011):

    best_c(j) = min over i <= j of best_{c-1}(i) + error(i, j)

    The first run starts at 0 and the last ends at n, so that only the runs between them need the
    whole table. With fewer different values than centroids, some centroids are equal.
    """
    sorted_n = values_n.double().sort().values
    errors = _RunErrors(sorted_n)
    zero, cuts = torch.zeros(1, dtype=torch.long, device=sorted_n.device), []
    best = errors(zero, errors.place)
    if size > 2:
        table = errors(errors.place[:, None], errors.place)
        for _ in range(size - 2):
            best, cut = (best[:, None] + table).min(dim=0)
            cuts.append(cut)
    edges = [errors.place[-1:]]
    if size > 1:
        edges.append((best + errors(errors.place, edges[0])).argmin(dim=0, keepdim=True))
    for cut in reversed(cuts):
        edges.append(cut.index_select(0, edges[-1]))
    return _means(sorted_n, torch.cat([zero, *edges[::-1]]))


class _RunErrors:
    """The squared error of runs of sorted values around their means."""

    def __init__(self, sorted_n: Tensor) -> None:
        centred_n = sorted_n - sorted_n.mean()
        self.sums, self.squares = _prefix(centred_n), _prefix(centred_n.square())
        self.place = torch.arange(len(sorted_n) + 1, device=sorted_n.device)

    def __call__(self, start: Tensor, stop: Tensor) -> Tensor:
        """Return the errors of runs start to stop - 1; infinite where start is behind stop."""
        length = stop - start
        total = self.sums[stop] - self.sums[start]
        error = self.squares[stop] - self.squares[start] - total.square() / length.clamp(min=1)
        return error.clamp_(min=0).masked_fill_(length < 0, float("inf"))


def _prefix(values_n: Tensor) -> Tensor:
    return torch.cat([values_n.new_zeros(1), values_n.cumsum(0)])


def _means(sorted_n: Tensor, edges: Tensor) -> Tensor:
    """Return the mean of every run between two edges; for an empty run, the value next to it."""
    count = edges.diff()
    total = _prefix(sorted_n)[edges].diff()
    beside = sorted_n[edges[:-1].clamp(max=len(sorted_n) - 1)]
    return torch.where(count > 0, total / count.clamp(min=1), beside)


def lloyd(values_n: Tensor, centroids_C: Tensor, max_rounds: int = 1000) -> Tensor:
    """Run Lloyd's algorithm until no value changes its cluster: errors only fall, so it ends.

    Values are sorted once, so that a cluster is a run and its mean a difference of prefix sums.

    Args:
        values_n: the scalars.
        centroids_C: sorted start.
        max_rounds: a bound that is not reached in practice. A GPU always runs a tenth of them:
            checking for changes would wait for the device.

    Returns:
        Sorted centroids `[C]`; an empty cluster keeps its centroid. The squared error is not
        above that of the start.
    """
    sorted_n = values_n.double().sort().values
    prefix = _prefix(sorted_n)
    centroids = centroids_C.double()
    on_cpu = values_n.device.type == "cpu"
    edges = None
    for _ in range(max_rounds if on_cpu else -(-max_rounds // 10)):
        middle = (centroids[1:] + centroids[:-1]) / 2
        inner = torch.searchsorted(sorted_n, middle, right=True)  # ties go down, as in nearest
        new_edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(sorted_n))])
        if on_cpu and edges is not None and torch.equal(edges, new_edges):
            break
        edges = new_edges
        count = edges.diff()
        centroids = torch.where(count > 0, prefix[edges].diff() / count.clamp(min=1), centroids)
    return centroids.to(centroids_C.dtype)
