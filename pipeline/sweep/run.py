"""A sweep as one piece: opened from its settings, and run to its end."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from pipeline.core import paths
from pipeline.core.provenance import Origin, git_commit
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.driver import Listener, run_sweep
from pipeline.sweep.identity import identify, study_tags, trial_code
from pipeline.sweep.job import SweepJob
from pipeline.sweep.progress import Progress
from pipeline.sweep.ray_cluster import check_resources, cluster, cluster_resources, places
from pipeline.sweep.study import Search
from pipeline.training.config import InputsConfig
from pipeline.training.inputs import load_inputs
from pipeline.training.settings import Resolver
from pipeline.training.trial import check_splits
from pipeline.training.validation import check_validation


def open_sweep(
    sweep: SweepConfig, config: InputsConfig, resolver: Resolver
) -> tuple[Search, SweepJob]:
    """Load what trials share, and open the study that belongs to it.

    Raises:
        ValueError: if a file is damaged or out of date, a class name is too long, or a task has no
            images to train on or to select with.
    """
    space = {name: axis.ends for name, axis in sweep.space.items()}
    n_ctx, depth = (resolver.largest(f"prompt.{key}", space) for key in ("n_ctx", "depth"))
    inputs = load_inputs(sweep.tasks, config, n_ctx, depth)
    tasks = list(inputs.tasks.values())
    check_splits(tasks, ("train",))
    check_validation(tasks, sweep.shots, sweep.seeds, sweep.validation)
    identity = identify(sweep, resolver, inputs.content_hash, inputs.backbone.fingerprint)
    tags = study_tags(identity, sweep, inputs.data_hash)
    about = {"inputs": asdict(identity), "tags": tags}
    search = Search(paths.STATE / "optuna.db", identity.name, sweep, resolver, about)
    origin = Origin(git_commit(), identity.code)
    return search, SweepJob(inputs.text, tasks, sweep, origin)


def run_trials(search: Search, job: SweepJob, console: Console, *listeners: Listener) -> None:
    """Run what the study lacks, and print how far it is.

    Raises:
        ValueError: if no node can ever take a trial.
        KeyboardInterrupt: if the sweep was interrupted; finished trials are kept.
    """
    sweep = job.sweep
    with cluster():
        console.print(
            f"sweep {search.name}: {search.n_given_out} of {search.n_trials} trials known; "
            f"{cluster_resources()}"
        )
        if trial_code() != job.origin.code:  # workers have a copy of the code of now
            raise ValueError("the code changed while the sweep started; run the same command again")
        if waits := check_resources(sweep.cpus_per_trial, sweep.gpus_per_trial):
            console.print(waits)
        n_workers = max(1, places(sweep.cpus_per_trial, sweep.gpus_per_trial))
        if search.waits and sweep.lag < n_workers:
            console.print(
                f"sweep.lag: at most {sweep.lag} trials run at once where results decide, and "
                f"there is room for {n_workers}; see docs/scale.md"
            )
        with tempfile.TemporaryDirectory(prefix="loqua-") as folder:
            progress = Progress(search, n_workers, console)
            run_sweep(search, job, Path(folder), *listeners, progress)
    if search.exhausted:
        console.print("all feasible settings of the space were tried")
    elif search.running or search.n_given_out < search.n_trials:
        raise KeyboardInterrupt
