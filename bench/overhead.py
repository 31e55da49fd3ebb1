"""What the sweep costs beyond its training: Ray Tune against the same trials in bare processes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pipeline.clip.backbone import load_backbone
from pipeline.core import paths
from pipeline.features.files import load_features
from pipeline.params import load_params
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.ray_cluster import cluster
from pipeline.sweep.study import Search
from pipeline.sweep.trainable import SweepJob
from pipeline.training.records import TrialRecord
from pipeline.training.trial import Trial

N_TRIALS, N_WORKERS = 8, 2


def load_job() -> SweepJob:
    """Return the project's own sweep, with few trials."""
    params = load_params()
    tasks = [load_features(paths.features_path(task)) for task in params.sweep.tasks]
    names = [name for task in tasks for name in task.class_names]
    text = load_backbone(params.backbone.on_cpu()).text_side(params.prompt.init, names)
    sweep = params.sweep.model_copy(update={"n_trials": N_TRIALS, "cpus_per_trial": 1})
    return SweepJob(text, tasks, params.resolver.resolve, params.resolver.expand, sweep)


@dataclass
class Clock:
    """Notes when trials end."""

    ended: list[tuple[float, TrialRecord]]

    def on_finished(self, record: TrialRecord) -> None:
        """Note the time."""
        self.ended.append((time.perf_counter(), record))

    on_pruned = on_finished

    def on_failed(self, number: int, error: str) -> None:
        """Say so: the figure is then worth nothing."""
        print(f"trial {number} failed: {error}")


def sweep_seconds(job: SweepJob) -> tuple[float, list[dict[str, Any]]]:
    """Run the sweep on a local cluster; return seconds from the first trial's start to the end."""
    clock = Clock([])
    with tempfile.TemporaryDirectory() as folder, cluster():
        search = Search(Path(folder) / "optuna.db", "bench", job.sweep)
        run_sweep(search, job, Path(folder) / "ray", clock)
    ended = clock.ended
    started = min(when - record.seconds for when, record in ended[:N_WORKERS])
    return ended[-1][0] - started, [record.settings for _, record in ended]


_job: SweepJob | None = None


def _start(job: SweepJob) -> None:
    global _job  # noqa: PLW0603 (how a process pool keeps what is loaded once)
    torch.set_num_threads(1)
    _job = job


def _train(settings: dict[str, Any]) -> float:
    assert _job is not None
    prompt, train = _job.resolve(settings)
    trial = Trial(_job.text, _job.tasks, prompt, train, _job.sweep.shots, _job.sweep.seeds)
    while not trial.done:
        trial.run_round()
    return time.perf_counter()


def bare_seconds(job: SweepJob, settings: list[dict[str, Any]]) -> float:
    """Train the same configurations, in the same order, in a plain pool of processes."""
    with get_context("spawn").Pool(N_WORKERS, _start, (job,)) as pool:
        pool.map(abs, range(N_WORKERS), chunksize=1)  # both have started
        start = time.perf_counter()
        for _ in pool.imap_unordered(_train, settings):
            pass
        return time.perf_counter() - start


def overhead() -> dict[str, float]:
    """Return the sweep's wall time over that of its training, on the same cores."""
    job = load_job()
    job = replace(job, sweep=job.sweep)
    swept, settings = sweep_seconds(job)
    bare = bare_seconds(job, settings)
    return {
        "sweep_wall_s": swept,
        "sweep_training_s": bare,
        "sweep_trials": float(N_TRIALS),
        "sweep_overhead": swept / bare,
    }
