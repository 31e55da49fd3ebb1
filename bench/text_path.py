"""One text step, forward and backward: ours against every class on its own; replicas; FLOP/s.

Shapes: S replicas, K classes, M context tokens, D text width, E joint embedding width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.coop_style import PlainText
from bench.timing import in_turn, matmul_rate
from bench.towers import imagenet_names
from pipeline.clip.text.tower import TextTower


def our_step(tower: TextTower, names: Any, context_SMD: Tensor, weight: Tensor) -> Any:
    """Run forward and backward of `sum(weight * embeddings)`; return embeddings, gradient."""
    context_SMD = context_SMD.clone().requires_grad_()
    class_SKE = tower(context_SMD, names)
    (class_SKE * weight).sum().backward()
    return class_SKE.detach(), context_SMD.grad


def compare(model: Any, tower: TextTower, n_classes: int, n_ctx: int) -> dict[str, float]:
    """Time the three paths in turn; return milliseconds, ratios and the largest errors."""
    names = imagenet_names(n_classes)
    generator = torch.Generator().manual_seed(0)
    context_MD = 0.02 * torch.randn(n_ctx, tower.width, generator=generator)
    weight_KE = torch.randn(n_classes, 512, generator=generator)
    packed = tower.pack(names, n_ctx)
    paths = {"full": PlainText(model, names, n_ctx, truncate=False)}
    paths["truncated"] = PlainText(model, names, n_ctx, truncate=True)
    results: dict[str, tuple[Tensor, Tensor]] = {}

    def ours() -> None:
        results["ours"] = our_step(tower, packed, context_MD[None], weight_KE)

    def plain(path: str) -> None:
        results[path] = paths[path].step(context_MD, weight_KE)

    runs = {"ours": ours, "truncated": partial(plain, "truncated"), "full": partial(plain, "full")}
    many = n_classes > 100  # minutes a step: measured once
    seconds = in_turn(runs, repeats=1 if many else 5, warm=not many)
    error = max(
        float((found[0] - expected).abs().max() / expected.abs().max())
        for found, expected in zip(results["ours"], results["full"], strict=True)
    )
    return {
        **{f"text_step_ms_{path}": 1e3 * value for path, value in seconds.items()},
        "text_step_vs_full": seconds["full"] / seconds["ours"],
        "text_step_vs_truncated": seconds["truncated"] / seconds["ours"],
        "relative_error": error,
    }


def useful_flops(tower: TextTower, names: list[list[int]], n_ctx: int) -> float:
    """Return the FLOPs that a step must spend, padding and repeated prefixes not counted.

    Forward and the gradient of the input, which costs the same; start tokens and the names'
    projections in the first block are known beforehand.
    """
    width, layers, n_classes = tower.width, len(tower.blocks), len(names)
    n_names = sum(len(name) + 1 for name in names)
    n_tokens = n_ctx + n_names
    per_layer = 24 * width**2 * n_tokens
    last = 4 * width**2 * n_tokens + 20 * width**2 * n_classes
    known = 6 * width**2 * n_names
    prefix = 1 + n_ctx
    pairs = prefix * (prefix + 1) / 2 - 1
    pairs += sum((len(n) + 1) * (prefix + (len(n) + 2) / 2) for n in names)
    attention = 4 * width * pairs * (layers - 1)
    products = per_layer * (layers - 1) + last - known + 2 * width * 512 * n_classes
    return 2 * products + 3 * attention


def replicas(tower: TextTower, names: list[list[int]], n_ctx: int) -> dict[str, float]:
    """Return how many times cheaper a replica is when 3 or 12 share a pass."""
    packed = tower.pack(names, n_ctx)
    contexts = {count: 0.02 * torch.randn(count, n_ctx, tower.width) for count in (1, 3, 12)}
    weight = torch.ones(1)
    seconds = in_turn(
        {
            str(count): lambda x=context: our_step(tower, packed, x, weight)
            for count, context in contexts.items()
        },
        repeats=25,
    )
    return {f"replicas{n}": n * seconds["1"] / seconds[str(n)] for n in (3, 12)}


def flops_fraction(tower: TextTower, n_classes: int, n_ctx: int) -> dict[str, float]:
    """Return the useful FLOP/s of a step, and their share of a large matrix product's."""
    names = imagenet_names(n_classes)
    packed, context = tower.pack(names, n_ctx), 0.02 * torch.randn(1, n_ctx, tower.width)
    step = in_turn({"step": lambda: our_step(tower, packed, context, torch.ones(1))}, repeats=9)[
        "step"
    ]
    rate, large = useful_flops(tower, names, n_ctx) / step, matmul_rate()
    return {"useful_gflops": rate / 1e9, "matmul_gflops": large / 1e9, "fraction": rate / large}
