"""Where a worker computes, and in which precision."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

from pipeline.core.config import Precision

log = logging.getLogger(__name__)

BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
"""Of x86 processors and, the last, of Arm's, as `torch.cpu.get_capabilities` names them."""


def usable_device(gpus: float) -> torch.device:
    """Return where a worker computes that has a share of `gpus` GPUs.

    It is the CPU where torch sees no GPU, with a warning in the worker's log: a machine may
    declare GPUs to Ray that torch, or the driver beneath it, cannot use.
    """
    if gpus and not torch.cuda.is_available():
        log.warning("assigned %g of a GPU, but torch sees none; computing on the CPU", gpus)
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


@lru_cache  # the log says it once per process
def usable_precision(wanted: Precision, device_type: str) -> Precision:
    """Return the precision in which a device computes matrix products when `wanted` is asked for.

    It is float32 where the device has no bfloat16 instructions, with a warning in the log: there
    bfloat16 is emulated, which took 20 times longer on a processor with AVX2 alone.

    Args:
        wanted: from params.yaml.
        device_type: `cpu` or `cuda`.
    """
    if wanted == "float32" or has_bfloat16(device_type):
        return wanted
    log.warning("this %s has no bfloat16 instructions; computing in float32", device_type.upper())
    return "float32"


def has_bfloat16(device_type: str) -> bool:
    """Return whether a kind of device computes in bfloat16 without emulation."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def set_deterministic(n_threads: int | None = None) -> None:
    """Make torch repeat its numbers on the same machine."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    if n_threads:
        torch.set_num_threads(n_threads)
