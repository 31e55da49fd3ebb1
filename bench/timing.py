"""Fair timing inside one process: candidates take turns, medians are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

TURN_S = 1.0


def in_turn(
    candidates: Mapping[str, Callable[[], object]], repeats: int, warm: bool = True
) -> dict[str, float]:
    """Run every candidate once to warm up, then in turn; return each one's median seconds.

    A turn lasts `TURN_S` or one run, whichever is longer: steps follow each other in training, too.
    """
    for run in candidates.values() if warm else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            turn = time.perf_counter()
            while time.perf_counter() < turn + TURN_S:
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def matmul_rate() -> float:
    """Return the FLOP/s of a large float32 matrix product on the current threads."""
    left, right = torch.randn(4096, 2048), torch.randn(2048, 2048)
    seconds = in_turn({"product": lambda: left @ right}, repeats=9)["product"]
    return 2 * 4096 * 2048 * 2048 / seconds
