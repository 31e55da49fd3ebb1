"""Where running trials outlive their workers: an actor on the driver's node.

Nodes share no files. A worker leaves its trial's checkpoint here after every round, and asks for
it when it begins a trial: the trial goes on there if another worker died with it. Checkpoints are
bytes to the vault (`checkpoint` makes and reads them), one per running trial.
"""

from __future__ import annotations

import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Shelf:
    """What the vault's actor holds, by the trial's number."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.checkpoints: dict[int, bytes] = {}
        self.begun: dict[int, float] = {}
        self.places: dict[int, str] = {}

    def begin(self, number: int) -> None:
        """Note that a round begins now."""
        self.begun[number] = time.monotonic()
        self.places.pop(number, None)

    def keep(self, number: int, data: bytes) -> None:
        """Put a checkpoint in the place of the last one; the round is over."""
        self.checkpoints[number] = data
        self.begun.pop(number, None)
        self.places.pop(number, None)

    def last(self, number: int) -> bytes | None:
        """Return the trial's last checkpoint."""
        return self.checkpoints.get(number)

    def hangs(self, number: int, place: str) -> None:
        """Note where a round hangs."""
        self.places[number] = place

    def hung(self, number: int, timeout_s: float) -> str | None:
        """Return where the trial's last round hung, "" if nobody could say it, None if it did not.

        A round hung if its worker said so, or if it began `timeout_s` ago and did not end.
        """
        begun = self.begun.get(number)
        late = begun is not None and time.monotonic() - begun >= timeout_s
        return self.places.get(number, "" if late else None)

    def drop(self, number: int) -> None:
        """Forget a trial that ended."""
        for held in (self.checkpoints, self.begun, self.places):
            held.pop(number, None)

    def n_held(self) -> int:
        """Return how many trials the vault knows something of."""
        return len({*self.checkpoints, *self.begun, *self.places})


class Vault:
    """A handle on the vault, which travels to workers. It ends with the driver that opened it."""

    def __init__(self) -> None:
        """Open a new vault on this node."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.shelf = ray.remote(Shelf).options(num_cpus=0, scheduling_strategy=here).remote()

    def begin(self, number: int) -> None:
        """Note that a round begins; does not wait."""
        self.shelf.begin.remote(number)

    def keep(self, number: int, data: bytes) -> None:
        """Leave a checkpoint; on return it is safe from this process's death."""
        ray.get(self.shelf.keep.remote(number, data))

    def last(self, number: int) -> bytes | None:
        """Return the trial's last checkpoint, or None for a trial that was not begun."""
        found: bytes | None = ray.get(self.shelf.last.remote(number))
        return found

    def hangs(self, number: int, place: str) -> None:
        """Tell where a round hangs."""
        ray.get(self.shelf.hangs.remote(number, place))

    def hung(self, number: int, timeout_s: float) -> str | None:
        """Return where the trial's last round hung, "" if nobody could say it, None if it did not.

        A round hung if its worker said so, or if it began `timeout_s` ago and did not end.
        """
        place: str | None = ray.get(self.shelf.hung.remote(number, timeout_s))
        return place

    def drop(self, number: int) -> None:
        """Forget a trial that ended; does not wait."""
        self.shelf.drop.remote(number)

    def n_held(self) -> int:
        """Return how many trials the vault knows something of."""
        n_held: int = ray.get(self.shelf.n_held.remote())
        return n_held

    def close(self) -> None:
        """End the vault."""
        ray.kill(self.shelf)
