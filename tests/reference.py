"""Slow, obvious oracles: each does the plain thing, one item at a time."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def encode_context(text: Any, context_MD: Tensor, names: list[list[int]]) -> Tensor:
    """Class embeddings `[K, E]` of `SOS context name EOS pad`, all positions, one class a pass.

    Runs an open_clip text transformer (`CLIP`, or a `CustomTextCLIP`'s `text`) through its own
    modules on embeddings, the way its `encode_text` does on tokens.
    """
    sos, eos = text.vocab_size - 2, text.vocab_size - 1
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    out = []
    for name in names:
        padding = [0] * (text.context_length - 2 - len(context_MD) - len(name))
        before_1D = text.token_embedding(torch.tensor([sos]))
        after_LD = text.token_embedding(torch.tensor([*name, eos, *padding]))
        x_1LD = (torch.cat([before_1D, context_MD, after_LD]) + text.positional_embedding)[None]
        x_LD = text.ln_final(text.transformer(x_1LD, attn_mask=text.attn_mask))[0]
        at = {"first": 0, "last": -1}.get(pool, 1 + len(context_MD) + len(name))
        pooled_D = x_LD[at]
        projection = text.text_projection
        linear = isinstance(projection, torch.nn.Linear)
        out.append(projection(pooled_D) if linear else pooled_D @ projection)
    return torch.stack(out)


def squared_error(values: Sequence[float], centroids: Sequence[float]) -> float:
    """The sum of each value's squared distance to its closest centroid."""
    return sum(min((value - centroid) ** 2 for centroid in centroids) for value in values)


def lloyd_1d(
    values: Sequence[float], centroids: Sequence[float], rounds: int = 1000
) -> list[float]:
    """Lloyd's algorithm value by value; ties go to the lower centroid, empty clusters stay."""
    current = sorted(centroids)
    for _ in range(rounds):
        members: list[list[float]] = [[] for _ in current]
        for value in values:
            distances = [abs(value - centroid) for centroid in current]
            members[distances.index(min(distances))].append(value)
        updated = [
            sum(own) / len(own) if own else old for own, old in zip(members, current, strict=True)
        ]
        if updated == current:
            break
        current = updated
    return current


def train_alone(
    class_embeddings: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    rates: Sequence[float],
    momentum: float,
    weight_decay: float,
    logit_scale: float,
) -> list[float]:
    """Stochastic gradient descent written out; the losses of all steps. Changes `parameters`.

    velocity = momentum * velocity + gradient + weight_decay * w;  w = w - lr * velocity
    """
    velocities: list[Tensor | None] = [None] * len(parameters)
    losses = []
    for (image_BE, label_B), rate in zip(batches, rates, strict=True):
        class_KE = F.normalize(class_embeddings(), dim=-1)
        log_p_BK = torch.log_softmax(logit_scale * image_BE @ class_KE.T, dim=-1)
        loss = -torch.stack([row[label] for row, label in zip(log_p_BK, label_B, strict=True)])
        gradients = torch.autograd.grad(loss.mean(), list(parameters))
        losses.append(loss.mean().item())
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                step = gradient + weight_decay * weight
                old = velocities[i]
                velocities[i] = step if old is None else momentum * old + step
                weight -= rate * velocities[i]
    return losses


def sample_shots(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """CoOp's rule: classes by first appearance, `random.sample` of each, all if there are fewer."""
    random.seed(seed)
    classes: list[int] = []
    for label in labels:
        if label not in classes:
            classes.append(label)
    drawn = []
    for wanted in classes:
        items = [position for position, label in enumerate(labels) if label == wanted]
        drawn += random.sample(items, shots) if len(items) >= shots else items
    return drawn


def pareto_numbers(points: Sequence[tuple[int, float, int]]) -> set[int]:
    """The numbers of (number, score, size) points that no other point dominates.

    A point is dominated if another is at least as good in both and better in one; of equal
    points the earliest stands for all.
    """
    front = set()
    for number, score, size in points:
        dominated = any(
            s >= score and b <= size and (s > score or b < size or n < number)
            for n, s, b in points
            if n != number
        )
        if not dominated:
            front.add(number)
    return front
