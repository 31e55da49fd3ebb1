"""Which classes are base, and which are new."""

from __future__ import annotations

from collections.abc import Sequence


def split_base_new(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split labels into base, the first ceil(K / 2) of the sorted ones, and new, the rest.

    The rule of CoCoOp (arXiv 2203.05557). Applied once more to the base classes it gives the
    classes of a selection run: half of them train, the other half play the new classes.
    """
    ordered = sorted(set(labels))
    half = -(-len(ordered) // 2)
    return ordered[:half], ordered[half:]
