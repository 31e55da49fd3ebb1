"""What a clone's sweep left behind, and whether it is whole."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from pipeline.tracking.trial_run import trial_key
from pipeline.training.records import TrialRecord
from tests.helpers.projects import run

N_TRIALS = 8
"""Of the sweeps of `prepared`."""
SWEEP = ("python", "-m", "stages.sweep")


def trials(project: Path) -> list[FrozenTrial]:
    """Return all trials of the one study, or none if there is no study yet."""
    path = project / "artifacts/state/optuna.db"
    if not path.exists():
        return []
    storage = f"sqlite:///{path}"
    names = optuna.study.get_all_study_names(storage)
    if not names:
        return []
    [name] = names
    return optuna.load_study(study_name=name, storage=storage).trials


def finished(project: Path) -> dict[int, dict[str, Any]]:
    """Return the records of the finished trials, by number."""
    return {
        trial.number: json.loads(trial.user_attrs["record"])
        for trial in trials(project)
        if trial.state == TrialState.COMPLETE
    }


def count(project: Path, state: str = "%") -> int:
    """Return how many trials there are so far, while a sweep runs: Optuna itself would write."""
    path = project / "artifacts/state/optuna.db"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            asked = "select count(*) from trials where state like ?"
            return int(connection.execute(asked, (state,)).fetchone()[0])
    except sqlite3.OperationalError:  # no file, or no table yet
        return 0


def runs(project: Path, uri: str = "") -> list[Run]:
    """Return all of MLflow's runs."""
    uri = uri or f"sqlite:///{project / 'artifacts/state/mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("loqua")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def check_databases(project: Path) -> None:
    """Neither database is damaged."""
    for name in ("optuna.db", "mlflow.db"):
        path = project / "artifacts/state" / name
        if path.exists():
            with sqlite3.connect(path) as connection:
                assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def check_whole(project: Path, before: dict[int, dict[str, Any]]) -> None:
    """The sweep is finished, `before` is kept in it, and every trial stands in MLflow once."""
    check_databases(project)
    after = finished(project)
    assert {number: after.get(number) for number in before} == before, "finished trials are kept"
    assert len(after) == N_TRIALS
    assert not [t for t in trials(project) if t.state == TrialState.RUNNING]
    written = json.loads((project / "artifacts/sweep/trials.json").read_text())
    assert written["trials"] == [after[number] for number in sorted(after)]
    settings = [json.dumps(trial["settings"], sort_keys=True) for trial in written["trials"]]
    assert len(set(settings)) == N_TRIALS, "a configuration was repeated"
    check_runs(project)


def check_runs(project: Path) -> None:
    """MLflow has the sweep and every finished trial once, all of them ended."""
    written = json.loads((project / "artifacts/sweep/trials.json").read_text())
    study, records = written["study"], [TrialRecord(**record) for record in written["trials"]]
    keys = [found.data.tags["loqua.key"] for found in runs(project)]
    assert sorted(keys) == sorted([study, *(trial_key(study, record) for record in records)])
    assert {found.info.status for found in runs(project)} == {"FINISHED"}


def resume(project: Path, n_known: int, *command: str) -> None:
    """Run the sweep to its end; it knows as many trials as there were."""
    done = run(project, *(command or SWEEP))
    if n_known < N_TRIALS:
        assert f"{n_known} of {N_TRIALS} trials known" in done.stdout, done.stdout
    else:
        assert "trials known" not in done.stdout, "there was nothing to train"
