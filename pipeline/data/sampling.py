"""Which classes and which images take part: the field's sampling rules.

Shapes: S seeds, N images drawn per seed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

VAL_SHOTS = 4
"""Validation images of a class, at most."""


def draw_train_val(
    train_labels: Sequence[int], val_labels: Sequence[int], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """Draw a seed's training and validation images, the public rule of CoOp's code.

    Train is drawn first, then min(shots, 4) validation images of every class from the same
    random stream; on all classes, before some of them are left out.

    Args:
        train_labels: of all training images, in manifest order.
        val_labels: of all validation images, in manifest order.
        shots: training images per class.
        seed: of the stream.

    Returns:
        Positions in `train_labels` and in `val_labels`; see `draw_shots`.
    """
    rng = random.Random(seed)
    train = draw_shots(train_labels, shots, rng)
    return train, draw_shots(val_labels, min(shots, VAL_SHOTS), rng)


def draw_train_rest(
    train_labels: Sequence[int], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """Draw a seed's training images, and validation images from the rest.

    For data sets without validation images, such as ImageNet, whose published test images must
    not select anything. Train is drawn as by `draw_train_val`, validation from the same stream.

    Returns:
        Positions in `train_labels`, both, without overlap. A class whose images are all drawn for
        training has no validation image.
    """
    rng = random.Random(seed)
    train = draw_shots(train_labels, shots, rng)
    rest = sorted(set(range(len(train_labels))) - set(train))
    found = draw_shots([train_labels[i] for i in rest], min(shots, VAL_SHOTS), rng)
    return train, [rest[i] for i in found]


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
    """The draws that take place from a task's training images.

    Attributes:
        seeds: of all draws.
        shots: images per class; every seed draws each of these numbers.
        validated: (seed, shots) of those that are also measured on validation images.
    """

    seeds: Sequence[int]
    shots: Sequence[int]
    validated: Sequence[tuple[int, int]] = ()

    def union(self, labels: Sequence[int], has_val: bool = True) -> list[int]:
        """Return every position that some seed draws, ascending; see `draw_shots`.

        Without a validation split (`has_val`) its substitute is included; see `draw_train_rest`.
        """
        drawn = [
            draw_shots(labels, shots, random.Random(seed))
            for seed in self.seeds
            for shots in self.shots
        ]
        if not has_val:
            drawn += [draw_train_rest(labels, shots, seed)[1] for seed, shots in self.validated]
        return sorted({position for positions in drawn for position in positions})
