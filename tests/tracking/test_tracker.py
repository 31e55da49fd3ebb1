import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.urls import without_credentials
from pipeline.tracking.config import TrackingConfig, tracking_uri
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trial_run import trial_key, trial_name
from pipeline.training.records import TrialRecord

CONFIG = TrackingConfig(uri=None, experiment="loqua")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def record(number: int) -> TrialRecord:
    history = [{"loss": 1.0 / step, "base": 0.5, "new": 0.4, "score": 0.44} for step in (1, 2, 3)]
    return TrialRecord(
        number=number, settings={"prompt.rank": 1, "train.lr": 0.05}, score=0.44, base=0.5,
        new=0.4, size_bytes=25, tasks={"food": {"base": 0.5, "new": 0.4}}, history=history,
        seconds=1.5,
    )  # fmt: skip


def test_address_in_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = TrackingConfig(uri="http://127.0.0.1:5000", experiment="x")
    assert tracking_uri(CONFIG, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(server, tmp_path) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:6000")
    assert tracking_uri(server, tmp_path) == "http://127.0.0.1:6000"


def test_silent_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 does not answer"):
        Tracker(CONFIG, tmp_path)


def test_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    command = (
        "from pathlib import Path; from pipeline.tracking.tracker import *\n"
        f"try: Tracker(TrackingConfig(uri=None, experiment='x'), Path({str(tmp_path)!r}))\n"
        "except ValueError as error: print('named', 'mlflow.db' in str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )
    assert "named True" in done.stdout, done.stderr


def test_trial_is_recorded_once_however_often_it_is_told(state: Path) -> None:
    tracker = Tracker(CONFIG, state)
    parent = tracker.open_run("sweep-1", "sweep", {"git_commit": "abc"})
    for _ in range(2):
        tracker.log_trial(parent, "sweep-1", record(7), {"data_hash": "d"})
    client = MlflowClient(tracker.uri)
    runs = client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time >= 1500, "the run lasts as long as the trial"
    assert run.data.params == {"prompt.rank": "1", "train.lr": "0.05", "rank": "rank 1"}
    assert run.data.metrics["size_bytes"] == 25
    assert run.data.metrics["food/new"] == 0.4
    assert run.data.tags["data_hash"] == "d"
    losses = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
    assert tracker.logged_trials(parent) == {trial_key("sweep-1", record(7))}


def test_opening_a_run_again_finds_it(state: Path) -> None:
    tracker = Tracker(CONFIG, state)
    first = tracker.open_run("key", "name", {})
    tracker.close_run(first)
    assert tracker.open_run("key", "name", {}) == first
    assert tracker.open_run("other", "name", {}) != first


def test_trial_name_tells_the_settings() -> None:
    assert trial_name({"prompt.rank": 1, "train.lr": 0.0512345}, 7) == "7: rank 1, lr 0.0512"


def test_password_in_an_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert without_credentials("https://me:s3cret@host:5000/x") == "https://host:5000/x"
    for plain in ("http://127.0.0.1:5000", "sqlite:////tmp/a@b/mlflow.db"):
        assert without_credentials(plain) == plain
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 does not answer") as refused:
        Tracker(CONFIG, tmp_path)
    assert "s3cret" not in str(refused.value)


def test_a_trial_of_an_earlier_study_of_the_same_name_is_another(state: Path) -> None:
    old, new = record(7), replace(record(7), settings={"prompt.rank": 2, "train.lr": 0.05})
    assert trial_key("sweep-1", old) != trial_key("sweep-1", new)
    kept = TrialRecord(**json.loads(json.dumps(asdict(old))))
    assert trial_key("sweep-1", kept) == trial_key("sweep-1", old), "as the study gives it back"
    tracker = Tracker(CONFIG, state)
    parent = tracker.open_run("sweep-2", "sweep", {})
    for one in (old, new):
        tracker.log_trial(parent, "sweep-2", one, {})
    assert len(tracker.logged_trials(parent)) == 2
