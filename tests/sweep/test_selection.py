"""Who wins, against brute force."""

import random
from dataclasses import replace
from typing import Any

import pytest

from pipeline.sweep.selection import (
    choose_champion,
    choose_compact,
    choose_per_task,
    choose_winners,
    pareto_front,
)
from pipeline.training.records import TrialRecord
from tests.helpers.records import ORIGIN
from tests.helpers.reference import pareto_numbers


def record(number: int, score: float, size: int, **settings: Any) -> TrialRecord:
    """Return a trial; settings with `__` for the dot."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return TrialRecord(number, dotted, score, score, score, size, {}, [], 1.0, ORIGIN)


def trials(seed: int, count: int = 25) -> list[TrialRecord]:
    """Return trials with many equal scores and sizes, in random order."""
    rng = random.Random(seed)
    return [record(n, rng.randrange(8) / 8, rng.choice([10, 20, 30, 40])) for n in range(count)]


@pytest.mark.parametrize("seed", range(10))
def test_pareto_front_is_brute_force(seed: int) -> None:
    records = trials(seed)
    front = pareto_front(records)
    points = [(t.number, t.score, t.size_bytes) for t in records]
    assert {t.number for t in front} == pareto_numbers(points)
    assert [t.size_bytes for t in front] == sorted({t.size_bytes for t in front})
    assert choose_champion(records) == front[-1]
    shuffled = random.Random(seed).sample(records, len(records))
    assert pareto_front(shuffled) == front


@pytest.mark.parametrize("within", [0.0, 0.125, 0.25, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_compact_is_the_smallest_within_tolerance(seed: int, within: float) -> None:
    records = trials(seed)
    best = max(t.score for t in records)
    compact = choose_compact(records, within)
    close = [t for t in records if t.score >= best - within]
    assert compact in close
    assert compact.size_bytes == min(t.size_bytes for t in close)
    assert compact.score == max(t.score for t in close if t.size_bytes == compact.size_bytes)
    assert compact in pareto_front(records)


def test_without_tolerance_compact_is_the_champion() -> None:
    records = trials(3)
    assert choose_compact(records, 0.0) == choose_champion(records)


def test_coop_is_the_best_plain_trial() -> None:
    records = [record(number, score, 10) for number, score in enumerate((0.9, 0.5, 0.6))]
    plain = choose_winners(records, 0.01, lambda trial: trial.number in (1, 2))
    assert set(plain) == {"champion", "compact", "coop"}
    assert plain["coop"] == records[2]
    assert set(choose_winners(records, 0.01, lambda _: False)) == {"champion", "compact"}


def test_every_task_can_choose_on_its_own() -> None:
    def trial(number: int, size: int, **tasks: tuple[float, float]) -> TrialRecord:
        own = {task: {"base": base, "new": new} for task, (base, new) in tasks.items()}
        return replace(record(number, 0.5, size), tasks=own)

    records = [
        trial(0, 100, pets=(0.9, 0.9), cars=(0.2, 0.2)),
        trial(1, 50, pets=(0.5, 0.5), cars=(0.8, 0.4)),
        trial(2, 10, pets=(0.895, 0.9), cars=(0.1, 0.9)),
    ]
    chosen = choose_per_task(records, 0.01, lambda t: t.number == 1)
    assert {task: found.number for task, found in chosen["champion"].items()} == {
        "pets": 0,
        "cars": 1,
    }
    assert {task: found.number for task, found in chosen["compact"].items()} == {
        "pets": 2,
        "cars": 1,
    }
    assert chosen["coop"]["pets"].number == 1
    assert chosen["champion"]["cars"].score == pytest.approx(2 * 0.8 * 0.4 / 1.2)
