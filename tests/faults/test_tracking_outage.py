"""The tracking server is killed in the middle of a real sweep, and comes back, or does not."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from projects import clean_environment, clone, edit_params, run
from proxy import free_port

from pipeline.server import end_group, serve, wait_for

pytestmark = pytest.mark.faults
N_TRIALS, OUTAGE_S = 10, 60.0


class Server:
    """A server that dies and starts again at the same address, with the same database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.stack = ExitStack()

    def start(self) -> None:
        self.process = self.stack.enter_context(
            serve(
                f"sqlite:///{self.folder / 'mlflow.db'}", self.folder / "files", self.port,
                options=["--workers", "1"], log=self.folder / "log",
            )
        )  # fmt: skip
        wait_for(self.url, self.process)

    def kill(self) -> None:
        end_group(self.process, patience_s=0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    with made.stack:
        yield made


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = clone(tmp_path_factory.mktemp("clone") / "loqua")
    run(folder, "dvc", "repro", "features")
    return folder


def start_sweep(folder: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stages.sweep"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**clean_environment(), "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1",
             "MLFLOW_TRACKING_URI": url},
    )  # fmt: skip


def read_until(sweep: subprocess.Popen[str], word: str, seen: list[str]) -> None:
    assert sweep.stdout is not None
    for line in sweep.stdout:
        seen.append(line)
        if word in line:
            return
    raise AssertionError(f"{word!r} never came\n{''.join(seen)}")


def check(folder: Path, url: str) -> None:
    """Every trial of the study has one run, which ended, with all that was measured."""
    stored = json.loads((folder / "artifacts/sweep/trials.json").read_text())
    trials = {trial["number"]: trial for trial in stored["trials"]}
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("loqua")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if r.data.tags["loqua.key"] == stored["study"]]
    assert parent.data.tags["state"] == "complete"
    assert parent.data.metrics["trials"] == len(trials) == N_TRIALS
    assert {r.info.status for r in runs} == {"FINISHED"}
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(number(r) for r in nested) == sorted(trials)
    for one in nested:
        for name in ("loss", "score"):
            history = client.get_metric_history(one.info.run_id, name)
            measured = [epoch[name] for epoch in trials[number(one)]["history"]]
            assert [(m.step, m.value) for m in history] == list(enumerate(measured, start=1))


def number(one: Run) -> int:
    return int(one.data.tags["loqua.key"].rpartition("/")[2])


def test_sweep_goes_on_without_its_server_and_delivers_when_it_is_back(
    ready: Path, server: Server
) -> None:
    edit_params(ready, sweep__n_trials=N_TRIALS, sweep__sampler_seed=1, tracking__patience_s=900)
    sweep, seen = start_sweep(ready, server.url), list[str]()
    read_until(sweep, f"2/{N_TRIALS}", seen)
    server.kill()
    down = time.monotonic()
    read_until(sweep, f"5/{N_TRIALS}", seen)
    read_until(sweep, f"{N_TRIALS}/{N_TRIALS}", seen)
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - down)))
    server.start()
    rest, _ = sweep.communicate(timeout=600)
    printed = "".join(seen) + rest
    assert sweep.returncode == 0, printed
    assert printed.count("is away (") == 1, printed
    assert printed.count("is back;") == 1, printed
    check(ready, server.url)


def test_server_that_stays_away_leaves_results_and_the_next_run_delivers_in_seconds(
    ready: Path, server: Server
) -> None:
    edit_params(ready, sweep__n_trials=N_TRIALS, sweep__sampler_seed=2, tracking__patience_s=3)
    sweep, seen = start_sweep(ready, server.url), list[str]()
    read_until(sweep, f"2/{N_TRIALS}", seen)
    server.kill()
    rest, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 1
    assert "run the same command again to record the rest" in rest
    assert "Traceback" not in rest
    stored = json.loads((ready / "artifacts/sweep/trials.json").read_text())
    assert len(stored["trials"]) == N_TRIALS, "the results are complete all the same"
    before = {p: os.stat(ready / p).st_size for p in ("artifacts/sweep/winners.json",)}

    away = run(ready, "dvc", "repro", "sweep", check=False, MLFLOW_TRACKING_URI=server.url)
    assert away.returncode != 0
    assert "does not answer" in away.stderr
    assert {p: os.stat(ready / p).st_size for p in before} == before, "DVC has not emptied it"

    server.start()
    again = run(ready, "dvc", "repro", "sweep", MLFLOW_TRACKING_URI=server.url).stdout
    assert "earlier trials go to" in again
    assert f"{N_TRIALS}/{N_TRIALS}" not in again, "nothing was trained"
    check(ready, server.url)
