"""A Ray cluster: joined or started, and functions run on it. Ray Tune is in sweep.py.

The driver joins the cluster that it stands on, or starts one on this machine.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Keeps glibc from returning buffers that the next step asks for again."""


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or the one that `ray start` put this machine into.

    If there is neither, or RAY_ADDRESS is `local`, one is started for this process alone. Ray
    writes its logs to its own folder; workers inherit the allocator's settings.
    """
    with own_sigterm():
        ray.init(
            include_dashboard=False,  # of a cluster that is started
            runtime_env={"env_vars": ALLOCATOR},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which `ray.init` replaces by `sys.exit(15)`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt(signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, handler)


def cluster_resources() -> str:
    """Return what the cluster offers, for people: nodes, CPUs and GPUs."""
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{nodes} node(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"


def map_parallel(
    function: Callable[..., Any], items: Sequence[Any], shared: Any, cpus: float, gpus: float
) -> Iterator[tuple[int, Any]]:
    """Compute `function(shared, item)` on the cluster; yield (index, result) as they arrive."""
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    reference = ray.put(shared)
    index_of = {remote.remote(reference, item): index for index, item in enumerate(items)}
    waiting = list(index_of)
    while waiting:
        ready, waiting = ray.wait(waiting)
        yield index_of[ready[0]], ray.get(ready[0])
