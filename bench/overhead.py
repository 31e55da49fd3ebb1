"""What the sweep costs beyond its training: Ray Tune against the same trials in bare processes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import ray

from bench.scale import NoText, NoTrial
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
MEAN_S = 2.0
"""Of the trials of a replayed sweep."""


def load_job(params: Params) -> SweepJob:
    """Return the project's own sweep, with few trials."""
    sweep = params.sweep.model_copy(update={"n_trials": N_TRIALS, "cpus_per_trial": 1})
    space = {name: axis.ends for name, axis in sweep.space.items()}
    n_ctx, depth = (params.resolver.largest(f"prompt.{key}", space) for key in ("n_ctx", "depth"))
    inputs = load_inputs(sweep.tasks, params.inputs, n_ctx, depth)
    return SweepJob(inputs.text, list(inputs.tasks.values()), sweep, Origin("bench", "bench"))


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


@dataclass(frozen=True)
class Replay(SweepJob):
    """Trials that sleep as long as those of another sweep took, in another unit of time."""

    lasted_s: list[float] = field(default_factory=list)

    def trial(self, spec: TrialSpec) -> Any:
        """Return a trial that sleeps."""
        return Asleep(spec, MEAN_S * self.lasted_s[spec.number] / mean(self.lasted_s))


class Asleep(NoTrial):
    """A trial that sleeps for its one round."""

    def __init__(self, spec: TrialSpec, seconds: float) -> None:
        """Take the configuration and the time."""
        super().__init__(spec)
        self.seconds = seconds

    def run_round(self) -> dict[str, float]:
        """Sleep."""
        time.sleep(self.seconds)
        return super().run_round()


def idle() -> dict[str, float]:
    """Return what waiting for results costs: wall time with a lag over that without.

    The sweep of artifacts/sweep is replayed by workers that sleep, so that eight of them need no
    eight cores. The first trial of every worker is left out: starting a worker takes longer than
    waiting.
    """
    params, found = load_params(), load_record(paths.TRIALS, SweepResults)
    lasted_s = [record.seconds for record in found.trials]
    train = params.train.model_copy(update={"rounds": 1})
    resolver = params.model_copy(update={"train": train}).resolver
    text: Any = NoText()
    results = {"idle_trials": float(len(lasted_s)), "idle_lag": float(params.sweep.lag)}
    with cluster():
        cores = int(ray.cluster_resources()["CPU"])
        for n_workers in (2, 8):
            walls = {}
            for lag in (params.sweep.lag, 0):
                changes = {
                    "lag": lag,
                    "cpus_per_trial": cores / n_workers,
                    "n_trials": len(lasted_s),
                }
                sweep = params.sweep.model_copy(update=changes)
                job = Replay(text, [], sweep, Origin("bench", "bench"), lasted_s)
                with tempfile.TemporaryDirectory() as folder:
                    search, clock = (
                        Search(Path(folder) / "optuna.db", "idle", sweep, resolver),
                        Clock(),
                    )
                    run_sweep(search, job, Path(folder) / "ray", clock)
                ends = sorted(when for when, _ in clock.ended)
                walls[lag] = ends[-1] - ends[n_workers - 1]
            results[f"idle_{n_workers}_workers"] = walls[params.sweep.lag] / walls[0] - 1
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
