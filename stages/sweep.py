"""Search rank, bits, prompt length and learning rate; write every trial and the winners."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.core import paths
from pipeline.core.disk import check_writable
from pipeline.core.files import save_json, save_record
from pipeline.core.hashes import value_hash
from pipeline.core.locks import exclusive
from pipeline.core.provenance import checkout_id, git_commit, versions
from pipeline.core.settings import flatten
from pipeline.core.stage import run_stage
from pipeline.core.workspace import is_copy
from pipeline.params import Params, load_params
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.ray_cluster import check_resources, cluster, cluster_resources
from pipeline.sweep.selection import choose_per_task, choose_winners, pareto_front
from pipeline.sweep.study import Search
from pipeline.sweep.trainable import SweepJob
from pipeline.tracking.recorder import Ended, Recorder, Tally, recording
from pipeline.tracking.tracker import Tracker
from pipeline.training.inputs import load_inputs
from pipeline.training.records import FailedTrial, TrialRecord, Winners
from pipeline.training.trial import check_splits
from pipeline.training.validation import check_validation

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Study:
    """A sweep's identity: equal inputs continue the same study."""

    name: str
    params: dict[str, Any]
    tags: dict[str, str]


def identify(params: Params, data_hash: str, fingerprint: str) -> Study:
    """Name the study by this checkout and all that trials depend on; more trials continue it.

    What the sweep searches is no part of it but by its axis: every trial sets its own value.
    """
    depends = params.model_dump(
        mode="json", include={"method", "methods", "prompt", "train", "sweep"}
    )
    for name in ("n_trials", "preset"):  # a preset is what it stands for
        del depends["sweep"][name]
    for name in params.sweep.space:
        *sections, key = name.split(".")
        del reduce(getitem, sections, depends)[key]
    inputs = value_hash([depends, data_hash, fingerprint])[:12]
    name = f"sweep-{inputs}-{checkout_id()}"
    tags = {
        "git_commit": git_commit(),
        "data_hash": data_hash,
        "backbone": fingerprint,
        "seeds": str(params.sweep.seeds),
        "sampler_seed": str(params.sweep.sampler_seed),
        "preset": params.sweep.preset,
    }
    tags |= {f"version.{package}": found for package, found in versions().items()}
    return Study(name, flatten(depends), tags)


def load_job(params: Params) -> tuple[SweepJob, Study]:
    """Load what trials share: features, towers, tokenized names.

    Raises:
        ValueError: if a cache file is damaged or stale, a class name is too long, or a task has
            no images to train on or to select with.
    """
    sweep = params.sweep
    space = {name: axis.ends for name, axis in sweep.space.items()}
    n_ctx, depth = (params.resolver.largest(f"prompt.{key}", space) for key in ("n_ctx", "depth"))
    inputs = load_inputs(sweep.tasks, params.inputs, n_ctx, depth)
    tasks = list(inputs.tasks.values())
    check_splits(tasks, ("train",))
    check_validation(tasks, sweep.shots, sweep.seeds, sweep.validation)
    job = SweepJob(inputs.text, tasks, params.resolver.resolve, params.resolver.expand, sweep)
    return job, identify(params, inputs.data_hash, inputs.backbone.fingerprint)


def main() -> None:
    """Run the stage."""
    params = load_params()
    rays = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    check_writable(paths.STATE, paths.TRIALS.parent, rays)
    with exclusive(paths.STATE / "sweep.lock", "another sweep", wait=is_copy()):
        sweep(params)


def sweep(params: Params) -> None:
    """Go on with the study that these parameters name, to its end."""
    tracker = Tracker(params.tracking, paths.STATE)
    job, study = load_job(params)
    console.print(f"searched: {', '.join(params.sweep.space)}; every trial sets its own values")
    with recording(tracker, study.name, study.tags, say) as log:
        search = Search(paths.STATE / "optuna.db", study.name, params.sweep)
        searched = {name: axis.words for name, axis in params.sweep.space.items()}
        log.begin(study.params, search.n_trials, searched, ended(search))
        tally = Tally(params.evaluate.compact_within, 0, search.n_pruned, search.n_failed)
        for record in search.finished():
            tally.add(record)
        if search.n_given_out < search.n_trials:
            run_trials(search, job, Progress(search.n_trials, log, tally))
        records = search.finished()
        if not records:
            raise ValueError(f"all {search.n_failed} trials failed; see the errors above")
        save_results(params, study, records, search.pruned(), search.failed())
        log.progress(tally)
        log.complete(ended(search), params.tracking.patience_s)


def ended(search: Search) -> Ended:
    """Return the study's trials by MLflow's word for how they ended."""
    return {"FINISHED": search.finished(), "KILLED": search.pruned()}


def say(line: str) -> None:
    """Tell of the tracking server."""
    console.print(f"[yellow]tracking: {escape(line)}[/yellow]")


@dataclass(frozen=True)
class Progress:
    """Counts every trial, tells the tracking server and prints a line for it."""

    n_trials: int
    log: Recorder
    tally: Tally

    def on_finished(self, record: TrialRecord) -> None:
        """Record a trial and say how it did."""
        self.tally.add(record)
        self._tell(record, "FINISHED")
        console.print(trial_line(record, self._done, self.n_trials, self.tally.best))

    def on_pruned(self, record: TrialRecord) -> None:
        """Record a trial that was stopped early and say where."""
        self.tally.pruned += 1
        self._tell(record, "KILLED")
        line = trial_line(record, self._done, self.n_trials, None)
        console.print(f"{line}  [dim]stopped in round {len(record.history)}[/dim]")

    def on_failed(self, number: int, error: str) -> None:
        """Say what went wrong."""
        self.tally.failed += 1
        self.log.progress(self.tally)
        console.print(f"[red]trial {number} failed: {error}[/red]")

    @property
    def _done(self) -> int:
        return self.tally.finished + self.tally.pruned

    def _tell(self, record: TrialRecord, status: str) -> None:
        self.log.trial(record, status)
        self.log.progress(self.tally)


def run_trials(search: Search, job: SweepJob, progress: Progress) -> None:
    """Run what the study lacks, one line per finished trial.

    Raises:
        ValueError: if no node can ever take a trial.
        KeyboardInterrupt: if the sweep was interrupted; finished trials are kept.
    """
    with cluster():
        console.print(
            f"sweep {search.name}: {search.n_given_out} of {search.n_trials} trials known; "
            f"{cluster_resources()}"
        )
        waits = check_resources(job.sweep.cpus_per_trial, job.sweep.gpus_per_trial)
        if waits:
            console.print(waits)
        with tempfile.TemporaryDirectory(prefix="loqua-") as folder:
            run_sweep(search, job, Path(folder), progress)
    if search.exhausted:
        console.print("every feasible configuration of the space was tried")
    elif search.running or search.n_given_out < search.n_trials:
        raise KeyboardInterrupt


def trial_line(record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> str:
    """Describe a finished trial in one line."""
    settings = "  ".join(
        f"{key.rpartition('.')[2]} {value:<7.3g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]} {value!s:<4}"
        for key, value in record.settings.items()
    )
    star = " *" if best and record.number == best.number else ""
    return (
        f"{done:>4}/{total}  {settings}  base {100 * record.base:5.1f}  "
        f"new {100 * record.new:5.1f}  HM {100 * record.score:5.1f}  "
        f"{record.size_bytes:>6} B  {record.seconds:5.1f} s{star}"
    )


def save_results(
    params: Params,
    study: Study,
    records: list[TrialRecord],
    pruned: Sequence[TrialRecord] = (),
    failed: Sequence[FailedTrial] = (),
) -> None:
    """Write all trials, the winners, the Pareto set, and what each task would have chosen.

    `pruned` are the trials that were stopped early, as far as they got; `failed` those that have
    no result. Winners are chosen among the finished `records` alone. The Pareto set has those
    that no other beats in score without being larger; of exact ties the earliest. It goes from
    the smallest to the best, whatever the objective was.
    """
    save_json(
        paths.TRIALS,
        {
            "study": study.name,
            "tags": study.tags,
            "trials": [asdict(record) for record in records],
            "pruned": [asdict(record) for record in pruned],
            "failed": [asdict(trial) for trial in failed],
        },
    )
    within = params.evaluate.compact_within

    def is_coop(record: TrialRecord) -> bool:
        return params.resolver.is_method(record.settings, "coop")

    winners = choose_winners(records, within, is_coop)
    per_task = choose_per_task(records, within, is_coop)
    save_record(paths.WINNERS, Winners(study.name, winners, pareto_front(records), per_task))


if __name__ == "__main__":
    run_stage(main)
