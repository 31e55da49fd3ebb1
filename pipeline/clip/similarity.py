"""Cosine similarity between images and classes."""

from __future__ import annotations

import math

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


def logits(image_features: Tensor, class_embeddings: Tensor, logit_scale: float) -> Tensor:
    """Return scaled cosine similarities `[..., N, K]`; image features are unit vectors."""
    return logit_scale * image_features @ F.normalize(class_embeddings, dim=-1).transpose(-1, -2)
