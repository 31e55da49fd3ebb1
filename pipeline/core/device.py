"""Where a worker computes."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def usable_device(gpus: float) -> torch.device:
    """Return where a worker computes that was given so much of a GPU.

    It is the CPU where torch sees no GPU, with a warning in the worker's log: a machine may
    declare GPUs to Ray that torch, or the driver beneath it, cannot use.
    """
    if gpus and not torch.cuda.is_available():
        log.warning("given %g of a GPU, but torch sees none; computing on the CPU", gpus)
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def set_deterministic(n_threads: int | None = None) -> None:
    """Make torch repeat its numbers on the same machine."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    if n_threads:
        torch.set_num_threads(n_threads)
