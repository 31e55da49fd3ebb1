"""A Ray cluster, joined or started, and functions that run on it. Ray Tune is in driver.py."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address

import pipeline

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Keeps glibc from returning buffers that the next step asks for again."""


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or the one that `ray start` put this machine into.

    If there is neither, or RAY_ADDRESS is `local`, one is started for this process alone; it
    listens on loopback only. Workers run a copy of the `pipeline` package as it is now: edits that
    follow change nothing, and neither does what is installed on other machines. Ray writes its logs
    to its own folder.

    Raises:
        ValueError: if RAY_ADDRESS is malformed, or if the cluster does not answer or wants a token
            that this machine does not have.
    """
    address = known_address()
    with own_sigterm(), driver_code() as folder:
        options = {
            "runtime_env": {"env_vars": ALLOCATOR, "working_dir": folder},
            "logging_level": logging.ERROR,
            "log_to_driver": False,
        }
        if address is None:
            start_local(options)
        else:
            join(address, options)
    try:
        yield
    finally:
        ray.shutdown()


def known_address() -> str | None:
    """Return the address (`host:port`) of the cluster to join; None: start one.

    Raises:
        ValueError: if RAY_ADDRESS is malformed.
    """
    found = os.environ.get("RAY_ADDRESS") or None
    expected = "expected host:port, auto, or local"
    if found and "://" in found:  # Ray Client: the driver would be outside of the cluster
        raise ValueError(f"RAY_ADDRESS: got {found}; {expected}")
    try:
        address = canonicalize_bootstrap_address(found)
    except (ValueError, OSError) as error:
        raise ValueError(f"RAY_ADDRESS: got {found} ({error}); {expected}") from None
    return str(address) if address else None


def start_local(options: dict[str, Any]) -> None:
    """Start Ray on this machine for this process alone, on 127.0.0.1.

    Ray 2.60 replaces a loopback address by the machine's outer one and then listens on all
    interfaces, unless clusters of several machines are switched off, as on macOS and Windows. This
    can go when `ray.init` keeps to a loopback address that it is given.
    """
    several, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(address="local", include_dashboard=False, **options)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several


def join(address: str, options: dict[str, Any]) -> None:
    """Join a running cluster.

    Raises:
        ValueError: if it does not answer, or wants a token that this machine does not have.
    """
    source = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "`ray start` on this machine"
    try:
        ray.init(**options)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise ValueError(
            f"the Ray cluster {address} (from {source}) cannot be joined: {error}; "
            "start it again, or set RAY_ADDRESS to local"
        ) from None


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray 2.60's `init` replaces by `sys.exit(15)`.

    This can go when `ray.init` leaves handlers alone that it finds.
    """
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


@contextmanager
def driver_code() -> Iterator[str]:
    """Make a folder that holds the `pipeline` package alone, for workers to run in.

    With any other way to send code, Ray 2.60 also puts the driver's folder on the workers' path,
    and what has that name on their own machine, perhaps older, comes first.
    """
    source = Path(pipeline.__file__).parent
    with tempfile.TemporaryDirectory(prefix="loqua-") as folder:
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, Path(folder) / source.name, ignore=caches)
        yield folder


def cluster_resources() -> str:
    """Return what the cluster offers, as text: nodes, CPUs and GPUs."""
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{nodes} node(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"


def places(cpus: float, gpus: float) -> int:
    """Return how many trials that need so much the nodes hold at once."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = [(name, need) for name, need in (("CPU", cpus), ("GPU", gpus)) if need]
    return sum(min(int(node.get(name, 0) / n + 1e-9) for name, n in needs) for node in nodes)


def check_resources(cpus: float, gpus: float) -> str | None:
    """Return that a trial which needs so much must wait; None if some node can take it.

    Raises:
        ValueError: if no cluster could ever take it: a GPU and a half, or more than this machine
            has where no other can join.
    """
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(
            f"sweep.gpus_per_trial: got {gpus:g}; expected a part of one GPU, or a whole number"
        )
    if places(cpus, gpus):
        return None
    wanted = f"{cpus:g} CPU(s) and {gpus:g} GPU(s)"
    if known_address() is None:
        raise ValueError(
            f"sweep.cpus_per_trial, sweep.gpus_per_trial: a trial needs {wanted}; "
            f"this machine has {cluster_resources()}"
        )
    return f"no node has {wanted} yet; waiting for one that has"


def waiting_trials(n_trials: int) -> int:
    """Return how many trials may wait for a place at once: one, and more on a joined cluster.

    There a node may come for each that waits; one by one, a hundred nodes would take hours. But a
    trial that waits was proposed earlier than needed, so it is an eighth of the sweep, 16 at most.
    """
    return 1 if known_address() is None else min(16, max(1, n_trials // 8))


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
