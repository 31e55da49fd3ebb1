"""Trial k depends on the trials up to k - lag and on nothing else: not on speed, not on stops."""

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.config import SweepConfig
from pipeline.sweep.job import TrialSpec
from pipeline.sweep.sampler import STARTUP_TRIALS
from pipeline.sweep.study import Search, rungs
from pipeline.training.records import SweepResults
from tests.helpers.sweeps import search
from tests.sweep.test_study import begin, config, finish, record

LAG, N_TRIALS = 3, 24


def lagged(**changed: Any) -> SweepConfig:
    return config(**{"n_trials": N_TRIALS, "lag": LAG, **changed})


class Workers:
    """Workers that train trials at random speeds, and a driver that may die."""

    def __init__(self, folder: Path, sweep: SweepConfig, n_workers: int, seed: int) -> None:
        self.path, self.sweep, self.n_workers = folder / f"{n_workers}-{seed}.db", sweep, n_workers
        self.rng, self.most = random.Random(seed), 0
        self.busy: dict[int, tuple[TrialSpec, int]] = {}

    def run(self, deaths: int = 0) -> SweepResults:
        """Return all trials; the driver dies so often on the way."""
        when = set(self.rng.sample(range(2 * N_TRIALS), deaths))
        study, turn = search(self.path, "toy", self.sweep), 0
        while True:
            while len(self.busy) < self.n_workers and (trial := study.ask()):
                self.busy[trial.number] = trial, 0
            self.most = max(self.most, len(self.busy))
            if not self.busy:
                return study.results()
            if turn in when:
                self.busy, study = {}, search(self.path, "toy", self.sweep)
            else:
                self.step(study)
            turn += 1

    def step(self, study: Search) -> None:
        """Let a trial finish a round; every seventh trial fails."""
        number = self.rng.choice(list(self.busy))
        trial, n_rounds = self.busy[number]
        so_far = record(trial, n_rounds + 1)
        if number % 7 == 5:
            study.tell_failed(number, "broken")
        elif len(so_far.history) == 2 or study.falls_behind(so_far):
            study.note(so_far)
            study.tell(so_far)
        else:
            study.note(so_far)
            self.busy[number] = trial, n_rounds + 1
            return
        del self.busy[number]


@pytest.mark.parametrize("objective", ["pareto", "score"])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_speed_and_stops_change_nothing(tmp_path: Path, objective: str, sampler: str) -> None:
    sweep = lagged(objective=objective, sampler=sampler)
    alone = Workers(tmp_path, sweep, n_workers=1, seed=0).run()
    assert len(alone.trials) + len(alone.pruned) + len(alone.failed) == N_TRIALS
    assert bool(alone.pruned) == (objective == "score")
    for seed in range(1, 4):
        for n_workers in (2, 8):
            assert Workers(tmp_path, sweep, n_workers, seed).run() == alone
        assert Workers(tmp_path, sweep, 2, seed + 10).run(deaths=4) == alone


def test_results_up_to_the_lag_count_and_later_ones_do_not(tmp_path: Path) -> None:
    def proposal(first_changed: int) -> dict[str, Any]:
        """Return the last proposal if trials from one on had measured something else."""
        study = search(tmp_path / f"{first_changed}.db", "toy", lagged())
        for number in range(N_TRIALS - 1):
            score = random.Random(number).random() if number >= first_changed else None
            finish(study, score)
        last = begin(study)
        shown = [seen.number for seen, _ in study._sampler._past]
        assert shown == list(range(last.number - LAG + 1))
        return last.settings

    plain, last = proposal(N_TRIALS), N_TRIALS - 1
    assert proposal(last - LAG + 1) == plain
    assert proposal(0) != plain


@pytest.mark.parametrize(
    ("changed", "most"),
    [({}, LAG), ({"sampler": "random"}, 8), ({"lag": 0}, 8), ({"objective": "score"}, LAG),
     ({"n_trials": STARTUP_TRIALS + LAG - 1}, 8)],
)  # fmt: skip
def test_workers_wait_only_where_results_decide(
    tmp_path: Path, changed: dict[str, Any], most: int
) -> None:
    workers = Workers(tmp_path, lagged(**changed), n_workers=8, seed=1)
    if most == LAG and "objective" not in changed:  # not those drawn at random
        study = search(workers.path, "toy", workers.sweep)
        for _ in range(STARTUP_TRIALS + LAG - 1):
            finish(study)
    workers.run()
    assert workers.most == most


def test_without_a_lag_all_results_so_far_count(tmp_path: Path) -> None:
    study = search(tmp_path / "study.db", "toy", lagged(lag=0))
    running = [begin(study) for _ in range(6)]
    for trial in (running[4], running[1]):
        study.tell(record(trial))
    begin(study)
    assert [seen.number for seen, _ in study._sampler._past] == [1, 4]


def test_rungs_are_those_of_asha() -> None:
    asha = {"grace_rounds": 2, "reduction_factor": 1.5}
    assert rungs(lagged(objective="score", asha=asha))[:5] == [2, 3, 5, 7, 11]
    assert rungs(lagged(asha=asha)) == []


def test_a_trial_stops_below_the_best_share_of_its_rung(tmp_path: Path) -> None:
    sweep = lagged(objective="score", lag=2, asha={"grace_rounds": 1, "reduction_factor": 3})
    study = search(tmp_path / "study.db", "toy", sweep)
    for score in (0.2, 0.4, 0.6, 0.8):
        finish(study, score)
    trial = begin(study)
    assert trial.number == 4, "it is compared with 0, 1 and 2, whose first rounds are 0.1, 0.2, 0.3"
    cutoff = 0.1 + 2 / 3 * 0.2
    assert study.falls_behind(record(trial, 1, 2 * cutoff - 0.01))
    assert not study.falls_behind(record(trial, 1, 2 * cutoff + 0.01))
    assert not study.falls_behind(record(trial, 2, 0.0)), "no rung is after round 2"
