"""The driver is killed, interrupted, or there are two of them."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from tests.faults.states import (
    N_TRIALS,
    SWEEP,
    check_databases,
    check_runs,
    check_whole,
    count,
    finished,
    resume,
    runs,
    trials,
)
from tests.helpers.projects import Running, edit_params, run, stage_of, wait_until

pytestmark = pytest.mark.faults


def trains(process: psutil.Process) -> bool:
    """Tell whether a process is a worker of the sweep, and lives."""
    try:
        return "Trainable" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_a_killed_driver_is_resumed_by_dvc(project: Path) -> None:
    repro = Running(project, "dvc", "repro", "sweep")
    repro.wait_for("2/")
    stage = stage_of(repro.process)
    workers = [child for child in stage.children(recursive=True) if trains(child)]
    assert workers
    stage.kill()
    assert repro.end() != 0
    wait_until(lambda: not any(trains(worker) for worker in workers))  # they end with the driver
    before = finished(project)
    known = len(before)
    assert 2 <= known < N_TRIALS
    check_databases(project)

    resume(project, known, "dvc", "repro", "sweep")
    check_whole(project, before)
    failed = [trial for trial in trials(project) if trial.state == TrialState.FAIL]
    repeated = [trial.params for trial in failed if "rejected" not in trial.user_attrs]
    kept = [record["settings"] for record in finished(project).values()]
    assert all(settings in kept for settings in repeated), "those that ran are repeated"
    assert "Stage 'sweep' didn't change" in run(project, "dvc", "repro", "sweep").stdout


def test_a_sweep_that_outlives_dvc_refuses_a_second_one(project: Path) -> None:
    edit_params(project, train__fast__min_steps=500)  # longer than dvc takes to come to it
    repro = Running(project, "dvc", "repro", "sweep")
    repro.wait_for("1/")
    stage = stage_of(repro.process)
    repro.process.kill()
    repro.process.wait()
    second = run(project, "dvc", "repro", "sweep", check=False)
    assert stage.is_running()
    assert second.returncode != 0
    assert "error: artifacts/state/sweep.lock: another sweep is running" in second.stderr
    assert "Traceback" not in second.stderr
    stage.wait(300)
    before = finished(project)
    assert len(before) == N_TRIALS, "the first one was not disturbed"
    run(project, "dvc", "repro", "sweep")
    check_whole(project, before)


def test_of_two_sweeps_started_at_once_one_is_refused(project: Path) -> None:
    both = [Running(project, *SWEEP) for _ in range(2)]
    statuses = sorted(one.end() for one in both)
    assert statuses == [0, 1], both[0].output + both[1].output
    [refused] = [one for one in both if one.process.returncode]
    assert "another sweep is running" in refused.output
    assert "Traceback" not in refused.output
    check_whole(project, {})


def test_another_folder_with_the_same_state_is_refused(project: Path, tmp_path: Path) -> None:
    edit_params(project, train__fast__min_steps=500)  # longer than another sweep takes to begin
    other = tmp_path / "other"
    shutil.copytree(project, other, symlinks=True)
    (project / "artifacts/state").mkdir(exist_ok=True)
    shutil.rmtree(other / "artifacts/state", ignore_errors=True)
    (other / "artifacts/state").symlink_to(project / "artifacts/state")
    first = Running(project, *SWEEP)
    first.wait_for("1/")
    refused = run(other, *SWEEP, check=False)
    assert refused.returncode == 1
    assert "another sweep is running" in refused.stderr
    assert first.end() == 0
    check_whole(project, {})


def test_two_checkouts_are_two_sweeps_of_one_tracking_server(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(project, other, symlinks=True)
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    run(project, *SWEEP, MLFLOW_TRACKING_URI=uri)
    run(other, *SWEEP, MLFLOW_TRACKING_URI=uri)
    found = runs(project, uri)
    keys = {one.data.tags["loqua.key"] for one in found}
    assert len(keys) == len(found) == 2 * (N_TRIALS + 1)
    assert {one.info.status for one in found} == {"FINISHED"}
    parents = [one for one in found if "/" not in one.data.tags["loqua.key"]]
    assert len(parents) == 2


def locked(project: Path) -> bool:
    return (project / "artifacts/state/sweep.lock").exists()


def opened(project: Path) -> bool:
    return (project / "artifacts/state/optuna.db").exists()


def asked(project: Path) -> bool:
    return count(project) > 0


def halfway(project: Path) -> bool:
    return count(project, "COMPLETE") >= N_TRIALS // 2


def all_told(project: Path) -> bool:
    return count(project, "COMPLETE") == N_TRIALS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [locked, opened, asked, halfway, all_told])
def test_an_interrupted_sweep_ends_cleanly_and_goes_on(
    project: Path, number: signal.Signals, moment: Callable[[Path], bool]
) -> None:
    sweep = Running(project, *SWEEP)
    wait_until(lambda: moment(project) or sweep.process.poll() is not None)
    if number == signal.SIGINT:  # as a terminal sends it: to the workers, too
        os.killpg(sweep.process.pid, number)
    else:
        os.kill(sweep.process.pid, number)
    status = sweep.end()
    before = finished(project)
    if moment is not all_told or status:  # at the end the signal may come too late
        assert status == 128 + number, sweep.output
        assert "interrupted; run the same command to continue from here" in sweep.output
    assert "Traceback" not in sweep.output
    found = {one.data.tags["loqua.key"]: one.info.status for one in runs(project)}
    assert "RUNNING" not in found.values()
    if status and found:
        assert {found[key] for key in found if "/" not in key} == {"KILLED"}
    resume(project, len(before))
    check_whole(project, before)


def test_a_change_of_the_search_begins_another_study(project: Path) -> None:
    edit_params(project, sweep__n_trials=2)
    run(project, *SWEEP)
    check_runs(project)
    first = (project / "artifacts/sweep/trials.json").read_text()
    edit_params(project, sweep__sampler_seed=5)
    run(project, *SWEEP)
    assert (project / "artifacts/sweep/trials.json").read_text() != first
