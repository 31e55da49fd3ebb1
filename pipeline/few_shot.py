"""Which classes and which images take part: the field's sampling rules.

Shapes: S seeds, N images drawn per seed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


def split_base_new(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split labels into base, the first ceil(K / 2) of the sorted ones, and new, the rest.

    The rule of CoCoOp (arXiv 2203.05557). Applied once more to the base classes it gives the
    classes of a selection run: half of them train, the other half stand in for new classes.
    """
    ordered = sorted(set(labels))
    half = -(-len(ordered) // 2)
    return ordered[:half], ordered[half:]


def draw_shots(labels: Sequence[int], shots: int, rng: random.Random) -> list[int]:
    """Draw up to `shots` images of every class, the public rule of CoOp's code.

    Args:
        labels: of all candidate images, in manifest order.
        shots: images per class; a class with fewer gives all of them.
        rng: `random.Random(seed)`; train is drawn first, then validation from the same stream.

    Returns:
        Positions in `labels`, class by class in order of first appearance.
    """
    positions: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        positions[label].append(position)
    drawn: list[int] = []
    for candidates in positions.values():
        drawn += rng.sample(candidates, shots) if len(candidates) >= shots else candidates
    return drawn


@dataclass(frozen=True)
class Draws:
    """The draws that a task's training images serve.

    Attributes:
        seeds: of all draws.
        shots: images per class of each.
    """

    seeds: Sequence[int]
    shots: int

    def union(self, labels: Sequence[int]) -> list[int]:
        """Return every position that some seed draws, ascending; see `draw_shots`."""
        drawn = (draw_shots(labels, self.shots, random.Random(seed)) for seed in self.seeds)
        return sorted({position for positions in drawn for position in positions})
