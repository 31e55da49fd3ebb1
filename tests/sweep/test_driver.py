"""The sweep on a real local Ray with real workers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clip.encoders import TextSide
from pipeline.features.task import TaskFeatures
from pipeline.sweep.config import Range
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.job import SweepJob
from pipeline.sweep.ray_cluster import cluster, cluster_resources, map_parallel
from pipeline.training.trial import Trial
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import Ended, resolver, search, sweep, sweep_config


@pytest.fixture(scope="module")
def job(text: TextSide, features: TaskFeatures) -> SweepJob:
    return SweepJob(text, [features], sweep_config(), ORIGIN)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with cluster():
        yield


def test_all_trials_run_and_the_study_has_them(job: SweepJob, tmp_path: Path) -> None:
    study = search(tmp_path / "s.db", "study", job.sweep)
    finished, failed = sweep(study, job, tmp_path)
    assert not failed
    assert len(finished) == 4
    assert study.results().trials == sorted(finished, key=lambda record: record.number)
    assert finished[0].settings == job.sweep.first[0]
    assert all(len(record.history) == 2 for record in finished)
    assert all(record.score == record.history[-1]["score"] for record in finished)
    assert all(record.origin == ORIGIN for record in finished)

    again, _ = sweep(search(tmp_path / "s.db", "study", job.sweep), job, tmp_path)
    assert again == [], "a finished sweep has nothing to do"
    later = replace(job, sweep=sweep_config(n_trials=6), origin=replace(ORIGIN, git_commit="new"))
    study = search(tmp_path / "s.db", "study", later.sweep)
    added, _ = sweep(study, later, tmp_path)
    assert len(added) == 2, "more trials continue the study"
    made = [record.origin.git_commit for record in study.results().trials]
    assert made == 4 * ["0" * 40] + 2 * ["new"], "a record keeps the commit that made it"


def test_worker_computes_what_the_driver_would(
    job: SweepJob, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    one = replace(job, sweep=sweep_config(n_trials=1))
    [record], _ = sweep(search(tmp_path / "s.db", "one", one.sweep), one, tmp_path)
    trial = Trial(text, [features], *resolver().resolve(record.settings), shots=2, seeds=[1, 2])
    while not trial.done:
        trial.run_round()
    for reported, computed in zip(record.history, trial.history, strict=True):
        assert reported == pytest.approx(computed, rel=1e-5)
    assert record.tasks == trial.tasks
    assert record.size_bytes == trial.size_bytes


def test_map_parallel_yields_every_result_with_its_index() -> None:
    results = dict(map_parallel(lambda shared, item: shared + item, [1, 2, 3], 10, 1, 0))
    assert results == {0: 11, 1: 12, 2: 13}


def test_resources_are_reported() -> None:
    assert "node(s)" in cluster_resources()
    assert "CPUs" in cluster_resources()


def test_trials_that_fall_behind_are_stopped_and_kept_as_pruned(
    job: SweepJob, tmp_path: Path
) -> None:
    rates = [0.5, 0.2, 0.1, 1e-9, 1e-9, 1e-8, 1e-8, 1e-7, 1e-7]
    first = [
        {"prompt.rank": "full", "prompt.bits": 16, "train.lr": lr * (1 + 0.01 * place)}
        for place, lr in enumerate(rates)
    ]
    config = sweep_config(
        n_trials=9, first=first, objective="score", lag=2,
        space={**job.sweep.space, "train.lr": Range(low=1e-10, high=1.0, log=True)},
    )  # fmt: skip
    study, ended = search(tmp_path / "s.db", "early", config, rounds=6), Ended()
    run_sweep(study, replace(job, sweep=config), tmp_path, ended)
    assert not ended.failed
    assert ended.pruned
    assert len(ended.finished) + len(ended.pruned) == 9
    assert all(len(record.history) == 6 for record in ended.finished)
    assert all(1 <= len(record.history) < 6 for record in ended.pruned)
    states = {trial.number: trial.state.name for trial in study.study.trials}
    assert {states[record.number] for record in ended.pruned} == {"PRUNED"}
    assert {states[record.number] for record in ended.finished} == {"COMPLETE"}
    assert study.results().pruned == sorted(ended.pruned, key=lambda record: record.number)
    assert len(ended.rounds) == sum(len(r.history) for r in (*ended.finished, *ended.pruned))
    again = search(tmp_path / "s.db", "early", config, rounds=6)
    assert again.n_given_out == 9
    assert again.ask() is None
