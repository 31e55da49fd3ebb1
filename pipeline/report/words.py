"""Numbers and settings as words: accuracies come in [0, 1] and are written in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def percent(value: float) -> str:
    """Write an accuracy in percent with one decimal: `71.2`."""
    return f"{100 * value:.1f}"


def points(difference: float) -> str:
    """Write a difference of accuracies in points, signed: `+1.2`; `0.0` has no sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def with_spread(values: Iterable[float]) -> str:
    """Write one accuracy per seed: `71.2 ± 0.4`, `71.2` for a single one, a dash for none."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return DASH
    spread = f" ± {percent(known.std())}" if len(known) > 1 else ""
    return f"{percent(known.mean())}{spread}"


def describe(settings: Mapping[str, Any]) -> str:
    """Describe a configuration: `rank 2, 4 bits, 8 context tokens, lr 0.05`."""
    words = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        number = f"{value:.3g}" if isinstance(value, float) else str(value)
        plural = "" if value == 1 else "s"
        words.append(
            {
                "rank": "full rank" if value == "full" else f"rank {value}",
                "bits": f"{value} bit{plural}",
                "n_ctx": f"{value} context token{plural}",
            }.get(name, f"{name} {number}")
        )
    return ", ".join(words)


def count(number: int, thing: str) -> str:
    """Write a number of things: `1 seed`, `1,024 bytes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Write a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def times(first: int, second: int) -> str:
    """Compare two sizes in bytes: `4.2 times smaller than`, `1 byte larger than`, `as large as`."""
    if first == second:
        return "as large as"
    word = "larger than" if first > second else "smaller than"
    low, high = sorted((first, second))
    if not low or high < 1.05 * low:
        return f"{count(high - low, 'byte')} {word}"
    return f"{high / low:.1f} times {word}"
