"""Which configurations win: on validation data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import TrialRecord


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that no other beats in score without being larger, smallest first.

    Of trials that tie exactly in both, the one with the lowest number stays.
    """
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda t: (t.size_bytes, -t.score, t.number)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front


def choose_champion(trials: Sequence[TrialRecord]) -> TrialRecord:
    """Return the trial with the best score; of equals, the smaller, then the earlier."""
    return min(trials, key=lambda t: (-t.score, t.size_bytes, t.number))


def choose_compact(trials: Sequence[TrialRecord], within: float) -> TrialRecord:
    """Return the smallest trial whose score is at most `within` below the best."""
    floor = choose_champion(trials).score - within
    close = [trial for trial in trials if trial.score >= floor]
    return min(close, key=lambda t: (t.size_bytes, -t.score, t.number))


def choose_winners(
    trials: Sequence[TrialRecord], within: float, is_coop: Callable[[TrialRecord], bool]
) -> dict[str, TrialRecord]:
    """Return the configurations that are refit and tested.

    They are champion, compact, and plain CoOp at its best learning rate, if it was tried.
    """
    winners = {"champion": choose_champion(trials), "compact": choose_compact(trials, within)}
    plain = [trial for trial in trials if is_coop(trial)]
    return winners | ({"coop": choose_champion(plain)} if plain else {})


def on_task(trials: Sequence[TrialRecord], task: str) -> list[TrialRecord]:
    """Return the trials as one task alone saw them, on validation data."""
    seen = []
    for trial in trials:
        base, new = trial.tasks[task]["base"], trial.tasks[task]["new"]
        seen.append(replace(trial, base=base, new=new, score=harmonic_mean(base, new)))
    return seen


def choose_per_task(
    trials: Sequence[TrialRecord], within: float, is_coop: Callable[[TrialRecord], bool]
) -> dict[str, dict[str, TrialRecord]]:
    """Return what each task of the sweep would choose on its own, by role and task."""
    chosen: dict[str, dict[str, TrialRecord]] = {}
    for task in trials[0].tasks:
        for role, record in choose_winners(on_task(trials, task), within, is_coop).items():
            chosen.setdefault(role, {})[task] = record
    return chosen
