"""What the controller costs as a sweep grows: a sweep of trials that train nothing.

Everything but the training is the project's own: the study in its sqlite file, Ray Tune with two
workers, checkpoints, the stage's own progress lines. Trials end as soon as they begin, so wall time
per trial is the controller's. Tracking is left out: it has figures of its own.

    python -m bench.scale [--trials N]

A figure "at 1,000 trials" is the mean over the trials around the 1,000th, in the order of their
ends: 51 to 150, 901 to 1,100, and the last 200. The growth compares the last with the first.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

import stages.sweep
from pipeline.core.files import save_json
from pipeline.core.provenance import git_commit, versions
from pipeline.params import load_params
from pipeline.prompts.config import PromptConfig
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.ray_cluster import cluster
from pipeline.sweep.study import Search
from pipeline.sweep.trainable import SweepJob, TrialActor
from pipeline.tracking.recorder import Tally
from pipeline.training.config import TrainConfig
from pipeline.training.records import TrialRecord
from pipeline.training.settings import Resolver

RESULTS = Path("bench/scale.json")
TASKS = 7
MARKS = {100: (50, 150), 1000: (900, 1100)}
"""Trials after the first and up to the last of a mean."""
LAST = 200


class NoText:
    """Stands for the towers."""

    def to(self, device: Any) -> NoText:  # noqa: ARG002 (as a text side's)
        """Do nothing."""
        return self


class NoTrial:
    """Trains nothing; its scores follow from its settings, so that a sampler can learn them."""

    def __init__(
        self,
        text: NoText,  # noqa: ARG002 (as a trial's)
        tasks: list[Any],  # noqa: ARG002 (as above)
        prompt: PromptConfig,
        train: TrainConfig,
        *rest: Any,  # noqa: ARG002 (as above)
    ) -> None:
        """Take the configuration."""
        rank = prompt.n_ctx if prompt.rank == "full" else prompt.rank
        noise = random.Random(f"{rank} {prompt.bits} {prompt.n_ctx} {train.lr}").random()
        self.score = 0.4 + 0.02 * rank + 0.01 * prompt.bits + 0.1 * noise
        self.size_bytes = int(rank * (prompt.n_ctx + 128) * prompt.bits / 8)
        self.rounds, self.runs, self.seconds = train.rounds, [], 0.0
        self.history: list[dict[str, float]] = []
        self.tasks = {f"task {i}": {"base": self.score, "new": self.score} for i in range(TASKS)}

    @property
    def done(self) -> bool:
        """Whether all rounds were told."""
        return len(self.history) == self.rounds

    def run_round(self) -> dict[str, float]:
        """Tell the score."""
        values = dict.fromkeys(("loss", "base", "new", "score"), self.score)
        self.history.append(values)
        return values


def resolve(resolver: Resolver, settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Turn settings into a configuration as the stage does; in a worker, train nothing."""
    if ray.get_runtime_context().get_actor_id() is not None:
        sys.modules[TrialActor.__module__].Trial = NoTrial  # type: ignore[attr-defined]  # a patch
    return resolver.resolve(settings)


class NoLog:
    """Stands for the tracking server."""

    def trial(self, *_: Any) -> None:
        """Do nothing."""

    progress = trial


@dataclass
class Clock:
    """Seconds that parts took so far, at the end of every trial."""

    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("ask", "tell"), 0.0))
    ends: list[dict[str, float]] = field(default_factory=list)

    def timed(self, part: str, function: Any) -> Any:
        """Return the function, with its time counted."""

        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - start

        return run

    def mark(self) -> None:
        """A trial ended."""
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now = {"wall": time.perf_counter(), "cpu": time.process_time(), "peak_bytes": peak}
        self.ends.append({**now, **self.parts})

    def mean(self, first: int, last: int) -> dict[str, float]:
        """Return milliseconds per trial after the first and up to the last, by part."""
        start, end = self.ends[first - 1], self.ends[last - 1]
        found = {
            name: 1000 * (end[name] - start.get(name, 0.0)) / (last - first)
            for name in end
            if name != "peak_bytes"
        }
        return {**found, "ray": found["wall"] - sum(found[name] for name in self.parts)}


class Listener:
    """The stage's own lines, printed to nowhere, and the clock."""

    def __init__(self, search: Search, clock: Clock) -> None:
        """Keep the clock."""
        stages.sweep.console = Console(file=io.StringIO())
        log: Any = NoLog()
        own = stages.sweep.Progress(search.n_trials, log, Tally(within=0.01))
        self.tell, self.clock = clock.timed("records", own.on_finished), clock
        self.failed = 0

    def on_finished(self, record: TrialRecord) -> None:
        """Do what the stage does."""
        self.tell(record)
        stages.sweep.console.file.truncate(0)  # type: ignore[attr-defined]  # a StringIO
        self.clock.mark()

    on_pruned = on_finished

    def on_failed(self, number: int, error: str) -> None:
        """Say so: the figures are then worth nothing."""
        print(f"trial {number} failed: {error}", file=sys.stderr)
        self.failed += 1


def run(n_trials: int) -> tuple[Clock, dict[str, float]]:
    """Run the sweep; return the clock and what it cost around the trials."""
    params = load_params()
    train = params.train.model_copy(update={"rounds": 1})
    changes = {"n_trials": n_trials, "cpus_per_trial": 1, "gpus_per_trial": 0}
    sweep = params.sweep.model_copy(update=changes)
    params = params.model_copy(update={"train": train, "sweep": sweep})
    text: Any = NoText()
    job = SweepJob(text, [], partial(resolve, params.resolver), params.resolver.expand, sweep)
    with tempfile.TemporaryDirectory(prefix="loqua-scale-") as name:
        folder, clock = Path(name), Clock()
        with cluster():
            search = Search(folder / "optuna.db", "scale", sweep)
            search.ask = clock.timed("ask", search.ask)  # type: ignore[method-assign]  # a clock
            search.tell = clock.timed("tell", search.tell)  # type: ignore[method-assign]  # as above
            listener, start = Listener(search, clock), time.perf_counter()
            run_sweep(search, job, folder / "ray", listener)
        if listener.failed or len(clock.ends) != n_trials:
            raise SystemExit(f"{len(clock.ends)} of {n_trials} trials ended well; see above")
        around = {"end_seconds": time.perf_counter() - clock.ends[-1]["wall"], "start_seconds": 0.0}
        around["start_seconds"] = clock.ends[0]["wall"] - start
        start = time.perf_counter()
        opened = Search(folder / "optuna.db", "scale", sweep)
        assert opened.n_finished == n_trials
        around["resume_seconds"] = time.perf_counter() - start
        around["study_bytes"] = float((folder / "optuna.db").stat().st_size)
    return clock, around


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000, help="at least 400; 5,000 by default")
    n_trials = parser.parse_args().trials
    if n_trials < 400:
        parser.error(f"--trials: found {n_trials}; allowed are 400 and more")
    clock, around = run(n_trials)
    marks = {mark: ends for mark, ends in MARKS.items() if ends[1] <= n_trials - LAST}
    marks[n_trials] = (n_trials - LAST, n_trials)
    results: dict[str, float | str] = {"trials": n_trials, "git_commit": git_commit()}
    results |= {f"version_{name}": found for name, found in versions().items()}
    table = Table("trials", "wall ms", "driver cpu ms", "ask", "tell", "lines", "Ray", "peak MB")
    means = {mark: clock.mean(*ends) for mark, ends in marks.items()}
    for mark, found in means.items():
        peak = clock.ends[marks[mark][1] - 1]["peak_bytes"]
        results |= {f"{part}_ms_{mark}": value for part, value in found.items()}
        results[f"peak_bytes_{mark}"] = peak
        shown = [found[part] for part in ("wall", "cpu", "ask", "tell", "records", "ray")]
        table.add_row(f"{mark:,}", *(f"{value:.1f}" for value in shown), f"{peak / 1e6:.0f}")
    for name, part in (("controller", "wall"), ("driver_cpu", "cpu")):
        results[f"{name}_growth_{n_trials}_vs_100"] = means[n_trials][part] / means[100][part]
    results |= around
    console = Console()
    console.print(table)
    for name, value in results.items():
        if "growth" in name or "seconds" in name or name == "study_bytes":
            console.print(f"{name}: {value:,.2f}")
    if n_trials >= 5000:
        save_json(RESULTS, results)
        console.print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
