"""What goes wrong in a sweep costs at most its own trial. Node and driver faults: tests/faults."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray import cloudpickle

from pipeline.clip.encoders import TextSide
from pipeline.features.task import TaskFeatures
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.job import SweepJob
from pipeline.sweep.ray_cluster import cluster
from pipeline.sweep.trainable import TrialActor
from pipeline.training.records import TrialRecord
from pipeline.training.trial import Trial
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import (
    Ended,
    FaultyJob,
    error_of,
    of_ranks,
    rank_of,
    resolver,
    search,
    sweep,
    sweep_config,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
Faulty = Callable[..., SweepJob]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with cluster():
        yield


@pytest.fixture
def faulty(text: TextSide, features: TaskFeatures) -> Faulty:
    """A sweep whose workers call `fault` before every round."""

    def build(fault: Callable[[Trial], None], **changes: object) -> SweepJob:
        return FaultyJob(text, [features], sweep_config(**changes), ORIGIN, fault)

    return build


def check_others(finished: list[TrialRecord], failed: dict[int, str]) -> None:
    """Of the ranks 1, 2 and full, 2 failed and the others finished."""
    assert {record.settings["prompt.rank"] for record in finished} == {1, "full"}
    assert list(failed) == [1]


def test_a_trial_that_raises_is_failed_with_its_traceback(faulty: Faulty, tmp_path: Path) -> None:
    def fault(trial: Trial) -> None:
        if rank_of(trial) == 2:
            raise RuntimeError("rank 2 is broken here")

    job = faulty(fault, n_trials=3, first=of_ranks(1, 2, "full"))
    study = search(tmp_path / "s.db", "broken", job.sweep, rounds=6)
    finished, failed = sweep(study, job, tmp_path)
    check_others(finished, failed)
    assert "rank 2 is broken here" in failed[1]
    assert study.n_failed == 1
    assert "in fault" in error_of(study), "the traceback is kept"
    assert "\x1b" not in error_of(study)


def test_a_trial_that_is_not_finite_is_failed_with_round_and_task(
    faulty: Faulty, tmp_path: Path
) -> None:
    def fault(trial: Trial) -> None:
        if rank_of(trial) == 2 and len(trial.history) == 3:
            trial.runs[0].fit.data.views_XVE.fill_(float("nan"))

    job = faulty(fault, n_trials=3, first=of_ranks(1, 2, "full"))
    study = search(tmp_path / "s.db", "nan", job.sweep, rounds=6)
    finished, failed = sweep(study, job, tmp_path)
    check_others(finished, failed)
    assert "round 4: task toy: the loss is not finite: [nan, nan]" in failed[1]


def test_the_trial_of_a_killed_worker_resumes_from_its_last_round(
    faulty: Faulty, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    seen = tmp_path / "rounds"
    seen.mkdir()

    def fault(trial: Trial) -> None:
        n_round = len(trial.history) + 1
        if n_round in (2, 4) and not (seen / f"killed-{n_round}").exists():
            (seen / f"killed-{n_round}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (seen / f"round-{n_round}-{time.time_ns()}").touch()

    job = faulty(fault, n_trials=1, max_failures=1)  # twice, but not in a row
    folder = tmp_path / "ray"
    [record], failed = sweep(search(tmp_path / "s.db", "k", job.sweep, rounds=6), job, folder)
    assert not failed
    assert len(list(seen.glob("killed-*"))) == 2
    rounds = sorted(int(path.name.split("-")[1]) for path in seen.glob("round-*"))
    assert rounds == [1, 2, 3, 4, 5, 6], "no round was trained twice"
    assert not list(folder.rglob("*.safetensors")), "nothing of it went through a file"
    whole = Trial(text, [features], *resolver(6).resolve(record.settings), shots=2, seeds=[1, 2])
    while not whole.done:
        whole.run_round()
    for reported, computed in zip(record.history, whole.history, strict=True):
        assert reported == pytest.approx(computed, rel=1e-5)


def test_a_round_that_fails_too_often_in_a_row_fails_its_trial(
    faulty: Faulty, tmp_path: Path
) -> None:
    def fault(trial: Trial) -> None:
        if len(trial.history) == 1 and rank_of(trial) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    job = faulty(fault, n_trials=3, first=of_ranks(1, 2, "full"), max_failures=1)
    study = search(tmp_path / "s.db", "k", job.sweep, rounds=6)
    finished, failed = sweep(study, job, tmp_path)
    check_others(finished, failed)
    assert error_of(study).count("Failure #") == 2


def test_a_trial_given_to_a_dead_worker_is_given_out_again(faulty: Faulty, tmp_path: Path) -> None:
    killed = tmp_path / "killed"

    def fault(_: Trial) -> None:
        if TrialActor.reset_config.__name__ == "die":
            return
        plain = TrialActor.reset_config

        def die(self: TrialActor, new_config: dict[str, object]) -> bool:
            if killed.exists():
                return plain(self, new_config)
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
            return False

        below = [TrialActor]
        for actor in below:  # Ray makes classes of its own from it, with copies of all methods
            below += actor.__subclasses__()
            actor.reset_config = die

    job = faulty(fault, n_trials=4, max_failures=1)
    finished, failed = sweep(search(tmp_path / "s.db", "dead", job.sweep, rounds=6), job, tmp_path)
    assert killed.exists()
    assert not failed
    assert len(finished) == 4


def hang_forever(_: Trial) -> None:
    """Sleep."""
    while True:
        time.sleep(1)


def test_a_trial_that_hangs_is_failed_with_the_place(faulty: Faulty, tmp_path: Path) -> None:
    def fault(trial: Trial) -> None:
        from pipeline.sweep import trainable

        if rank_of(trial) == 2:
            if len(trial.history) == 1:
                hang_forever(trial)
            plain = trainable.time_limit  # a second is enough for the next round
            trainable.time_limit = lambda _, report: plain(1.0, report)  # type: ignore[assignment]

    job = faulty(fault, n_trials=3, first=of_ranks(1, 2, "full"), round_timeout_s=600)
    study = search(tmp_path / "s.db", "hang", job.sweep, rounds=6)
    finished, failed = sweep(study, job, tmp_path / "ray")
    check_others(finished, failed)
    assert "round_timeout_s" in failed[1]
    assert "in hang_forever" in error_of(study), "the place is kept"


@pytest.mark.faults
def test_a_trial_that_hangs_in_foreign_code_is_failed(faulty: Faulty, tmp_path: Path) -> None:
    def fault(trial: Trial) -> None:
        import ctypes

        from pipeline.core import timeout as watch

        watch.BACKSTOP_S = 1.0  # of the next round
        if rank_of(trial) == 2 and len(trial.history) == 1:
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock

    job = faulty(fault, n_trials=3, first=of_ranks(1, 2, "full"), round_timeout_s=60)
    study = search(tmp_path / "s.db", "hang", job.sweep, rounds=6)
    finished, failed = sweep(study, job, tmp_path / "ray")
    check_others(finished, failed)
    assert "round_timeout_s" in failed[1]
    assert "the worker could not report the place" in error_of(study)


class Broken(Ended):
    """A listener that raises at the second trial."""

    def __init__(self) -> None:
        super().__init__()
        self.on_finished = self.take

    def take(self, record: TrialRecord) -> None:
        if self.finished:
            raise OSError(28, "No space left on device", "somewhere")
        self.finished.append(record)


def test_an_error_of_the_listener_ends_the_sweep_and_keeps_what_finished(
    text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    job = SweepJob(text, [features], sweep_config(n_trials=6), ORIGIN)
    study = search(tmp_path / "s.db", "full", job.sweep, rounds=6)
    with pytest.raises(OSError, match="No space left on device: 'somewhere'"):
        run_sweep(study, job, tmp_path, Broken())
    assert 2 <= len(study.results().trials) <= 3, "the study had both first"
    assert study.n_failed == 0, "it is no fault of a trial"
    rest = replace(job, sweep=sweep_config(n_trials=6))
    study = search(tmp_path / "s.db", "full", rest.sweep, rounds=6)
    sweep(study, rest, tmp_path)
    assert len(study.results().trials) == 6
