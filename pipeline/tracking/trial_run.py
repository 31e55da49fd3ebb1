"""What the run of a trial says: its key, its name and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.core.hashes import value_hash
from pipeline.training.records import TrialRecord


def trial_key(study: str, record: TrialRecord) -> str:
    """Return what tells a trial from all others, also from one of the same number long ago."""
    return f"{study}/{value_hash(asdict(record))[:12]}/{record.number}"


def trial_metrics(record: TrialRecord) -> list[tuple[str, float, int]]:
    """Return what was measured: every round as a step, and the end's figures at the last one."""
    last = len(record.history)
    metrics = [
        (name, value, step)
        for step, measured in enumerate(record.history, start=1)
        for name, value in measured.items()
    ]
    metrics += [("size_bytes", record.size_bytes, last), ("seconds", record.seconds, last)]
    return metrics + [
        (f"{task}/{name}", value, last)
        for task, values in record.tasks.items()
        for name, value in values.items()
    ]


def trial_name(settings: Mapping[str, Any], number: int) -> str:
    """Return a run name that tells the settings, for instance `7: rank 1, bits 2`."""
    parts = [
        f"{key.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]} {value}"
        for key, value in settings.items()
    ]
    return f"{number}: {', '.join(parts)}"


def rank_word(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the rank as a word that is never a number: `rank 1`, `full`.

    MLflow's parallel coordinates lose `full` on an axis whose other values are numbers.
    """
    rank = settings.get("prompt.rank")
    return {} if rank is None else {"rank": rank if isinstance(rank, str) else f"rank {rank}"}
