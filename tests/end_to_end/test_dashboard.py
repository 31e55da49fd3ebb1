"""Optuna's dashboard reads the studies of sweeps, as `make dashboard` opens it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.sweep.config import Choice, SweepConfig
from pipeline.training.records import TrialRecord
from tests.helpers.projects import REPOSITORY, free_port, wait_until
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import search


def finished_study(path: Path, objective: str) -> None:
    """A study with two trials, as a sweep leaves it."""
    config = SweepConfig(
        tasks=["toy"], shots=1, seeds=[1], n_trials=2, sampler_seed=0, objective=objective,
        space={"prompt.rank": Choice([1, 2, "full"])}, first=[{"prompt.rank": 2}],
        cpus_per_trial=1, gpus_per_trial=0, max_failures=0,
    )  # fmt: skip
    study = search(path, objective, config)
    while trial := study.ask():
        history = [{"score": 0.25, "base": 0.5, "new": 0.2, "loss": 1.0}] * 2
        record = TrialRecord(
            number=trial.number, settings=trial.settings, score=0.5, base=0.5, new=0.5,
            size_bytes=64 + trial.number, tasks={}, history=history, seconds=1.0, origin=ORIGIN,
        )  # fmt: skip
        study.tell(record)


@pytest.fixture
def address(tmp_path: Path) -> Any:
    """`make dashboard` over a single- and a two-objective study."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for objective in ("pareto", "score"):
        finished_study(tmp_path / "artifacts/state/optuna.db", objective)
    port = free_port()
    server = subprocess.Popen(
        ["make", "-s", "-o", ".venv/.ready", "dashboard", f"DASHBOARD_PORT={port}"],
        cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url, server))
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.communicate(timeout=60)


def answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Tell whether the server answers yet; fail if it ended."""
    assert server.poll() is None, server.communicate()[0].decode()
    try:
        return requests.get(f"{url}/api/studies", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_both_kinds_of_study_are_shown_with_their_trials(address: str) -> None:
    listed = requests.get(f"{address}/api/studies", timeout=30).json()["study_summaries"]
    directions = {study["study_name"]: study["directions"] for study in listed}
    assert directions == {"pareto": ["maximize", "minimize"], "score": ["maximize"]}
    for study in listed:
        found = requests.get(f"{address}/api/studies/{study['study_id']}", timeout=30).json()
        states = [trial["state"] for trial in found["trials"]]
        assert states.count("Complete") == 2
        assert {p["name"] for p in found["trials"][0]["params"]} == {"prompt.rank"}
    assert requests.get(f"{address}/dashboard", timeout=30).ok


def test_without_a_study_the_command_says_so(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "-s", "-o", ".venv/.ready", "dashboard"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no study yet" in done.stderr
