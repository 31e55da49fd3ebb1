"""The file of runs is whole or absent."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.database import make_database
from pipeline.tracking.tracker import Tracker

KILLED_AMONG_ITS_STEPS = """
import os, signal, sys
from itertools import count
from sqlalchemy import event
from sqlalchemy.engine import Engine
from pipeline.tracking.database import make_database

steps = count()

@event.listens_for(Engine, "after_cursor_execute")
def kill(*_):
    if next(steps) == 200:
        os.kill(os.getpid(), signal.SIGKILL)

make_database(sys.argv[1])
"""


def test_a_kill_while_the_database_is_made_is_mended_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", KILLED_AMONG_ITS_STEPS, f"sqlite:///{path}"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    [begun] = tmp_path.glob(".mlflow.db.*.tmp")
    assert begun.stat().st_size > 0
    assert not path.exists()
    tracker = Tracker(TrackingConfig(uri=None, experiment="loqua"), tmp_path)
    assert tracker.find_run("no such key") is None


def test_a_database_that_is_there_and_other_addresses_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"kept")
    for uri in (f"sqlite:///{path}", "sqlite:///:memory:", "http://127.0.0.1:9", "databricks"):
        make_database(uri)
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.db"
    make_database(f"sqlite:///{path}?timeout=20")
    assert sorted(one.name for one in path.parent.iterdir()) == ["runs.db", "runs.db.lock"]


def test_what_goes_wrong_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(ValueError, match="tracking.uri: sqlite:///.*file"):
        Tracker(TrackingConfig(uri=None, experiment="loqua"), tmp_path)
