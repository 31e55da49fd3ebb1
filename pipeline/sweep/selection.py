"""Which trials win: on validation data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import SweepResults, TrialRecord, Winners
from pipeline.training.settings import Resolver


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
    """Return the trials whose settings are refit and tested, by role.

    They are champion, compact, and plain CoOp at its best learning rate, if it was tried.
    """
    winners = {"champion": choose_champion(trials), "compact": choose_compact(trials, within)}
    plain = [trial for trial in trials if is_coop(trial)]
    return winners | ({"coop": choose_champion(plain)} if plain else {})


def choose(results: SweepResults, within: float, resolver: Resolver) -> Winners:
    """Return the winners, the front, and what each task would have chosen.

    Args:
        results: of the sweep; only trials that ran to their end can win.
        within: how far the compact winner's score may be from the best.
        resolver: knows which settings are plain CoOp.
    """

    def is_coop(record: TrialRecord) -> bool:
        return resolver.is_method(record.settings, "coop")

    trials = results.trials
    return Winners(
        results.study,
        choose_winners(trials, within, is_coop),
        pareto_front(trials),
        choose_per_task(trials, within, is_coop),
    )


def summary(
    n_finished: int, n_pruned: int, n_failed: int, front: Sequence[TrialRecord], within: float
) -> dict[str, float]:
    """Return a sweep so far in numbers: trials by how they ended, the best and the compact one.

    Args:
        n_finished: trials that ran to their end.
        n_pruned: trials that were stopped early.
        n_failed: trials without a result.
        front: of the finished trials, which has all winners.
        within: how far the compact one's score may be from the best.
    """
    found: dict[str, float] = {"trials": n_finished, "pruned": n_pruned, "failed": n_failed}
    if front:
        best, compact = choose_champion(front), choose_compact(front, within)
        found |= {"score": best.score, "size_bytes": best.size_bytes}
        found |= {"compact_score": compact.score, "compact_bytes": compact.size_bytes}
    return found


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
