"""The tracking server is killed in the middle of a real sweep, and comes back, or does not."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipeline.tracking.server import end_group, serve, wait_for
from tests.faults.states import N_TRIALS, SWEEP
from tests.helpers.projects import Running, edit_params, free_port, run

pytestmark = pytest.mark.faults
OUTAGE_S = 60.0


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
    project: Path, server: Server
) -> None:
    edit_params(project, tracking__patience_s=900)
    sweep = Running(project, *SWEEP, MLFLOW_TRACKING_URI=server.url)
    sweep.wait_for(f"2/{N_TRIALS}")
    server.kill()
    down = time.monotonic()
    sweep.wait_for(f"{N_TRIALS}/{N_TRIALS}")
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - down)))
    server.start()
    assert sweep.end(600) == 0, sweep.output
    assert sweep.output.count("is away (") == 1, sweep.output
    assert sweep.output.count("is back;") == 1, sweep.output
    check(project, server.url)


def test_server_that_stays_away_leaves_results_and_the_next_run_delivers_in_seconds(
    project: Path, server: Server
) -> None:
    edit_params(project, tracking__patience_s=3)
    sweep = Running(project, *SWEEP, MLFLOW_TRACKING_URI=server.url)
    sweep.wait_for(f"2/{N_TRIALS}")
    server.kill()
    assert sweep.end(600) == 1
    assert "run the same command again to record the rest" in sweep.output
    assert "Traceback" not in sweep.output
    results = [project / "artifacts/sweep" / name for name in ("trials.json", "winners.json")]
    before = [path.read_bytes() for path in results]
    assert len(json.loads(before[0])["trials"]) == N_TRIALS, "the results are complete all the same"

    away = run(project, "dvc", "repro", "sweep", check=False, MLFLOW_TRACKING_URI=server.url)
    assert away.returncode != 0
    assert "does not answer" in away.stderr
    assert [path.read_bytes() for path in results] == before, "DVC has not emptied it"

    server.start()
    again = run(project, "dvc", "repro", "sweep", MLFLOW_TRACKING_URI=server.url).stdout
    assert "earlier trials go to" in again
    assert f"{N_TRIALS}/{N_TRIALS}" not in again, "nothing was trained"
    check(project, server.url)
