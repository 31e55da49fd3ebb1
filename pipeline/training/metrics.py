"""Accuracies and how they are combined.

Shapes: N images, K classes, E joint embedding width, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def harmonic_mean(base: float, new: float) -> float:
    """Return 2 b n / (b + n), the field's summary of base and new accuracy; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for a single value)."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def with_spread(values: Sequence[float]) -> str:
    """Write accuracies in percent: `71.2 ± 0.4`, mean and spread; `71.2` for a single value."""
    middle, spread = mean_and_spread([100 * value for value in values])
    return f"{middle:.1f} ± {spread:.1f}" if len(values) > 1 else f"{middle:.1f}"
