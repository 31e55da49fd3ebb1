"""Where running trials survive the death of their workers: an actor on the driver's node.

Nodes share no files. A worker puts its trial's checkpoint here after every round, and asks for it
when it begins a trial, which resumes there if another worker died with it. To the store checkpoints
are bytes (`training.checkpoint` makes and reads them), one for each running trial.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class CheckpointStore:
    """Checkpoints, and which rounds run, by the trial's number."""

    def __init__(self) -> None:
        """Start empty."""
        self.checkpoints: dict[int, bytes] = {}
        self.begun: dict[int, float] = {}
        self.places: dict[int, str] = {}

    def begin(self, number: int) -> None:
        """Note that a round begins now."""
        self.begun[number] = time.monotonic()
        self.places.pop(number, None)

    def put(self, number: int, data: bytes) -> None:
        """Replace the trial's checkpoint; its round has ended."""
        self.checkpoints[number] = data
        self.begun.pop(number, None)
        self.places.pop(number, None)

    def last(self, number: int) -> bytes | None:
        """Return the trial's last checkpoint, or None if no round has ended."""
        return self.checkpoints.get(number)

    def report_hang(self, number: int, place: str) -> None:
        """Note where a round hangs."""
        self.places[number] = place

    def hung(self, number: int, timeout_s: float) -> str | None:
        """Return where the trial's last round hung, "" if the place is unknown, None if it did not.

        A round hung if its worker reported so, or if it began `timeout_s` ago and did not end.
        """
        begun = self.begun.get(number)
        late = begun is not None and time.monotonic() - begun >= timeout_s
        return self.places.get(number, "" if late else None)

    def drop(self, number: int) -> None:
        """Forget a trial that ended."""
        for held in (self.checkpoints, self.begun, self.places):
            held.pop(number, None)

    def size(self) -> int:
        """Return how many trials the store has something of."""
        return len({*self.checkpoints, *self.begun, *self.places})


def open_store() -> Any:
    """Start a store on this node; return Ray's handle, which can be sent to workers.

    It ends with this driver, or by `ray.kill`.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(CheckpointStore).options(num_cpus=0, scheduling_strategy=here).remote()
