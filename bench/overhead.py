"""What the sweep costs beyond its training: Ray Tune against the same trials in bare processes."""

from __future__ import annotations

import itertools
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from bench.scale import NoJob, NoText, NoTrial
from pipeline.core import paths
from pipeline.core.files import load_record
from pipeline.core.provenance import Origin
from pipeline.params import Params, load_params
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.job import SweepJob, TrialSpec
from pipeline.sweep.ray_cluster import cluster
from pipeline.sweep.study import Search
from pipeline.training.inputs import load_inputs
from pipeline.training.records import SweepResults, TrialRecord

N_TRIALS, N_WORKERS = 8, 2
BENCH = Origin("bench", "bench")


def load_job(params: Params) -> SweepJob:
    """Return the project's own sweep, with few trials."""
    sweep = params.sweep.model_copy(update={"n_trials": N_TRIALS, "cpus_per_trial": 1})
    space = {name: axis.ends for name, axis in sweep.space.items()}
    n_ctx, depth = (params.resolver.largest(f"prompt.{key}", space) for key in ("n_ctx", "depth"))
    inputs = load_inputs(sweep.tasks, params.inputs, n_ctx, depth)
    return SweepJob(inputs.text, list(inputs.tasks.values()), sweep, BENCH)


class Clock:
    """Notes when trials end."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.ended: list[tuple[float, TrialRecord]] = []

    def on_round(self, record: TrialRecord) -> None:
        """Do nothing."""

    def on_finished(self, record: TrialRecord) -> None:
        """Note the time."""
        self.ended.append((time.perf_counter(), record))

    on_pruned = on_finished

    def on_failed(self, number: int, error: str) -> None:
        """Print it: the figure is then worth nothing."""
        print(f"trial {number} failed: {error}")


def sweep_seconds(params: Params, job: SweepJob) -> tuple[float, list[TrialSpec]]:
    """Run the sweep on a local cluster; return seconds from the first trial's start to the end."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, cluster():
        search = Search(Path(folder) / "optuna.db", "bench", job.sweep, params.resolver)
        run_sweep(search, job, Path(folder) / "ray", clock)
    started = min(when - record.seconds for when, record in clock.ended[:N_WORKERS])
    specs = [
        TrialSpec(record.number, record.settings, *params.resolver.resolve(record.settings))
        for _, record in clock.ended
    ]
    return clock.ended[-1][0] - started, specs


_job: SweepJob | None = None


def _start(job: SweepJob) -> None:
    global _job  # noqa: PLW0603 (how a process pool keeps what is loaded once)
    _job = job
    job.start_worker()


def _train(spec: TrialSpec) -> float:
    assert _job is not None
    trial = _job.trial(spec)
    while not trial.done:
        trial.run_round()
    return time.perf_counter()


def bare_seconds(job: SweepJob, specs: list[TrialSpec]) -> float:
    """Train the same configurations, in the same order, in a plain pool of processes."""
    with get_context("spawn").Pool(N_WORKERS, _start, (job,)) as pool:
        pool.map(abs, range(N_WORKERS), chunksize=1)  # both have started
        start = time.perf_counter()
        for _ in pool.imap_unordered(_train, specs):
            pass
        return time.perf_counter() - start


def makespan(search: Search, n_workers: int, lasted_s: list[float]) -> float:
    """Return when a sweep ends whose trials take so long, if only training takes time.

    The study decides which trial may begin. As on Ray Tune, one trial waits for a free worker.
    """
    now_s, busy, waiting = 0.0, list[tuple[float, TrialSpec]](), list[TrialSpec]()
    while True:
        while not waiting or len(busy) < n_workers:
            if not waiting and (spec := search.ask()):
                waiting.append(spec)
            if not waiting or len(busy) == n_workers:
                break
            spec = waiting.pop()
            busy.append((now_s + lasted_s[spec.number % len(lasted_s)], spec))
        if not busy:
            return now_s
        now_s, spec = min(busy, key=lambda one: one[0])
        busy.remove((now_s, spec))
        trial = NoTrial(spec)
        trial.run_round()
        search.tell(NoJob(NoText(), [], search.config, BENCH).record(spec, trial))  # type: ignore[arg-type]  # no towers


def idle() -> dict[str, float]:
    """Return what waiting for results costs: a sweep's time with its lag over that without, less 1.

    The trials take as long as those of artifacts/sweep did.
    """
    params, found = load_params(), load_record(paths.TRIALS, SweepResults)
    lasted_s = [record.seconds for record in found.trials]
    train = params.train.model_copy(update={"rounds": 1})
    resolver = params.model_copy(update={"train": train}).resolver
    results = {"idle_lag": float(params.sweep.lag), "idle_trials": float(len(lasted_s))}
    results["idle_slowest_over_mean"] = max(lasted_s) / mean(lasted_s)
    for n_workers, n_trials in itertools.product((2, 4, 8), (len(lasted_s), 200)):
        with tempfile.TemporaryDirectory() as folder:
            spans = []
            for lag in (params.sweep.lag, 0):
                sweep = params.sweep.model_copy(update={"lag": lag, "n_trials": n_trials})
                search = Search(Path(folder) / f"{lag}.db", "idle", sweep, resolver)
                spans.append(makespan(search, n_workers, lasted_s))
        results[f"idle_{n_workers}_workers_{n_trials}_trials"] = spans[0] / spans[1] - 1
    return results


def overhead() -> dict[str, float]:
    """Return the sweep's wall time over that of its training, on the same cores."""
    params = load_params()
    job = load_job(params)
    swept, specs = sweep_seconds(params, job)
    bare = bare_seconds(job, specs)
    return {
        "sweep_wall_s": swept,
        "sweep_training_s": bare,
        "sweep_trials": float(N_TRIALS),
        "sweep_overhead": swept / bare,
    }
