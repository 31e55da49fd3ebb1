"""What the sweep writes and prints, without running one."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.core.files import load_record, save_record
from pipeline.params import load_params
from pipeline.sweep.progress import Progress, duration
from pipeline.sweep.selection import choose
from pipeline.training.records import FailedTrial, SweepResults, TrialRecord, Winners
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import search
from tests.sweep.test_study import begin, config, finish, record

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def trial(number: int, score: float, size: int) -> TrialRecord:
    """Return a finished trial of one task."""
    tasks = {"toy": {"base": score, "new": score}}
    return TrialRecord(number, {"train.lr": 0.1}, score, score, score, size, tasks, [], 1.0, ORIGIN)


def test_the_front_is_among_the_winners() -> None:
    trials = [
        trial(0, 0.6, 100),
        trial(1, 0.6, 100),  # ties with 0
        trial(2, 0.5, 200),  # worse and larger
        trial(3, 0.4, 10),
        trial(4, 0.4, 20),  # larger than 3 and no better
        trial(5, 0.7, 300),
    ]
    resolver = load_params(SHIPPED).resolver
    found = choose(SweepResults("s", {}, trials, [], []), 0.01, resolver)
    assert found.pareto == [trials[3], trials[0], trials[5]]
    assert found.winners["champion"] == found.pareto[-1]
    assert found.winners["coop"] == trials[5], "params.yaml itself is plain CoOp"


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    trials = [trial(0, 0.1 + 0.2, 100), trial(2, 1 / 3, 50)]
    failed = [FailedTrial(1, {"train.lr": 0.2}, "OSError: gone")]
    results = SweepResults("s", {"code": "c"}, trials, [trial(3, 0.0, 1)], failed)
    winners = choose(results, 0.01, load_params(SHIPPED).resolver)
    save_record(tmp_path / "trials.json", results)
    save_record(tmp_path / "winners.json", winners)
    assert load_record(tmp_path / "trials.json", SweepResults) == results
    assert load_record(tmp_path / "winners.json", Winners) == winners


def test_lines_say_how_far_the_sweep_is_and_how_long_the_rest_takes(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    study = search(tmp_path / "study.db", "toy", config(n_trials=5))
    lines = Progress(study, 2, console)
    first, second = begin(study), begin(study)
    half = record(first, n_rounds=1)
    study.note(half)
    lines.on_round(half)
    whole = record(first)
    study.tell(whole)
    lines.on_finished(whole)
    lines.on_round(record(second, n_rounds=1))
    study.tell_failed(second.number, "broken")
    lines.on_failed(second.number, "broken")
    for _ in range(3):
        finish(study)
    lines.on_finished(study.results().trials[-1])
    printed = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert printed[0] == "trial 0: round 1 of 2, HM 23.5, about 2 s left"
    assert printed[1].startswith("   1/5  rank full  bits 16    lr 0.1  ")
    assert printed[1].endswith("0.5 s *  about 1 s left")
    assert printed[2] == "trial 1 failed: broken"
    assert printed[3].startswith("   4/5  ")
    assert "left" not in printed[3]
    assert len(printed) == 4, "rounds are news only until the first trial has ended"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "2 h"), (1e5, "28 h")],
)
def test_durations_are_in_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == f"about {words} left"
