"""Accuracies and how they are combined.

Shapes: N images, K classes, E joint embedding width, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

import torch
from torch import Tensor
from torch.nn import functional as F


def accuracy(image_features_NE: Tensor, class_embeddings_KE: Tensor, label_N: Tensor) -> float:
    """Return the share of images whose most similar class is their own, in [0, 1].

    Similarity is the cosine, as in CLIP (arXiv 2103.00020). NaN when there is no image.
    """
    if not len(label_N):
        return math.nan
    predicted_N = (image_features_NE @ F.normalize(class_embeddings_KE, dim=-1).T).argmax(dim=-1)
    return float((predicted_N == label_N).double().mean())


def harmonic_mean(base: float, new: float) -> float:
    """Return 2 b n / (b + n), the field's summary of base and new accuracy; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for a single value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def logits(image_features: Tensor, class_embeddings: Tensor, logit_scale: float) -> Tensor:
    """Return scaled cosine similarities `[..., N, K]`; image features are unit vectors."""
    return logit_scale * image_features @ F.normalize(class_embeddings, dim=-1).transpose(-1, -2)


def set_deterministic(n_threads: int | None = None) -> None:
    """Make torch repeat its numbers on the same machine."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    if n_threads:
        torch.set_num_threads(n_threads)
