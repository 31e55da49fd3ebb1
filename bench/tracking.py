"""What recording a sweep costs its controller, and how fast records arrive; bench/tracking.json.

    make bench-tracking   # 1,000 trials of 50 epochs, against three stores

Between two trials the controller works and waits as long as that of a sweep whose trials train
nothing (bench/scale.json): no real sweep tells of trials as fast. `sweep_slowdown` is how long that
takes with recording, over how long it takes without. At the end all values are counted in the
store.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from sqlalchemy import create_engine, text

from pipeline.core.files import save_json
from pipeline.core.provenance import git_commit, versions
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.postgres import own_cluster
from pipeline.tracking.recorder import Tally, recording
from pipeline.tracking.server import serve, wait_for
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trial_run import trial_metrics
from pipeline.training.records import TrialRecord

RESULTS = Path("bench/tracking.json")
STORES = ("sqlite", "server_sqlite", "server_postgresql")
N_EPOCHS, N_TASKS, PATIENCE_S = 50, 7, 600.0
WORK_S, WAIT_S = 0.035, 0.010
"""A controller's for one trial: of its processor, and of others."""
console = Console(highlight=False, soft_wrap=True)


def record(number: int) -> TrialRecord:
    """Return a trial of the usual size: four curves, seven tasks."""
    history = [
        {"loss": 1 / step, "base": 0.6, "new": 0.5 + step / 1e3, "score": 0.55 + step / 1e3}
        for step in range(1, N_EPOCHS + 1)
    ]
    settings = {"prompt.rank": 1, "prompt.bits": 1, "prompt.n_ctx": 4, "train.lr": 0.001 + number}
    tasks = {f"task-{index}": {"base": 0.6, "new": 0.5} for index in range(N_TASKS)}
    return TrialRecord(number, settings, 0.55 + number % 7 / 100, 0.6, 0.5, 24 + number % 99,
                       tasks, history, 20.0)  # fmt: skip


@contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str | None, str]]:
    """Provide a store: what a client is told, and the address of its database."""
    sqlite = f"sqlite:///{folder / 'state' / 'mlflow.db'}"
    if kind == "sqlite":
        yield None, sqlite
    elif kind == "server_sqlite":
        (folder / "state").mkdir()
        with server(sqlite, folder) as url:
            yield url, sqlite
    else:
        with own_cluster(folder / "postgres") as database, server(database, folder) as url:
            yield url, database


@contextmanager
def server(database: str, folder: Path) -> Iterator[str]:
    """Run a server on a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with serve(database, folder / "files", port, log=folder / "log") as process:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"


def turn(n_steps: int) -> float:
    """Do what a controller does for a trial; return the seconds that it took."""
    start = time.perf_counter()
    sum(index * index for index in range(n_steps))
    time.sleep(WAIT_S)
    return time.perf_counter() - start


def steps_of(seconds: float) -> int:
    """Return how many steps of `turn` take a processor so long."""
    tried = 1_000_000
    start = time.thread_time()
    sum(index * index for index in range(tried))
    return int(tried * seconds / (time.thread_time() - start))


def measure(kind: str, n_trials: int, folder: Path) -> dict[str, float]:
    """Record a sweep into one kind of store.

    Raises:
        ValueError: if not every value arrived.
    """
    records = [record(number) for number in range(n_trials)]
    n_steps = steps_of(WORK_S)
    told, alone = [], [turn(n_steps) for _ in range(100)]
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow itself sets
    with store(kind, folder) as (uri, database):
        tracker = Tracker(TrackingConfig(uri=uri, experiment="bench"), folder / "state")
        tally, begun = Tally(within=0.01), time.perf_counter()
        with recording(tracker, "bench", {"git_commit": git_commit()}, console.print) as log:
            log.begin({}, n_trials, {}, {})
            for one in records:
                start = time.perf_counter()
                tally.add(one)
                log.trial(one)
                log.progress(tally)
                told.append(time.perf_counter() - start)
                turn(n_steps)
            swept = time.perf_counter() - begun
            log.progress(tally)
            log.complete({"FINISHED": records}, PATIENCE_S)
        seconds = time.perf_counter() - begun
        with create_engine(database).connect() as connection:
            asked = (
                "select count(*) from metrics join tags on tags.run_uuid = metrics.run_uuid "
                "where tags.key = 'mlflow.parentRunId'"
            )
            arrived = int(connection.execute(text(asked)).scalar_one())
    expected = sum(len(trial_metrics(one)) for one in records)
    if arrived != expected:
        raise ValueError(f"{kind}: {arrived} of {expected} values arrived")
    return {
        "tell_ms_mean": 1e3 * statistics.mean(told),
        "tell_ms_p99": 1e3 * sorted(told)[int(0.99 * n_trials)],
        "tell_ms_max": 1e3 * max(told),
        "sweep_s": swept,
        "sweep_slowdown": swept / n_trials / statistics.mean(alone),
        "flush_s": seconds - swept,
        "trials_per_s": n_trials / seconds,
        "metrics_per_s": arrived / seconds,
        "metrics": float(arrived),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure what recording a sweep costs.")
    parser.add_argument("stores", nargs="*", choices=[*STORES, []], help="all by default")
    parser.add_argument("--trials", type=int, default=1_000)
    options = parser.parse_args()
    results: dict[str, float | str] = {
        "trials": options.trials, "epochs": N_EPOCHS, "git_commit": git_commit(),
        "load_before": os.getloadavg()[0], "cores": os.cpu_count() or 0,
    }  # fmt: skip
    results |= {f"version_{name}": found for name, found in versions().items()}
    for kind in options.stores or STORES:
        folder = Path(tempfile.mkdtemp(prefix="loqua-bench-"))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        try:
            found = measure(kind, options.trials, folder)
        finally:
            shutil.rmtree(folder)
        console.print(kind, {key: round(value, 3) for key, value in found.items()})
        results |= {f"{kind}_{key}": value for key, value in found.items()}
    if not options.stores:
        save_json(RESULTS, results)
        console.print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
