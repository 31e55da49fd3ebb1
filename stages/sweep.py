"""Search rank, bits, prompt length and learning rate; write every trial and the winners."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipeline.core import paths
from pipeline.core.disk import check_writable
from pipeline.core.files import save_record
from pipeline.core.locks import exclusive
from pipeline.core.stage import run_stage
from pipeline.core.workspace import is_copy
from pipeline.params import Params, load_params
from pipeline.sweep.adopt import adoptable
from pipeline.sweep.run import open_sweep, run_trials
from pipeline.sweep.selection import choose
from pipeline.sweep.study import Search
from pipeline.tracking.recorder import Ended, Recorder, recording
from pipeline.tracking.tracker import Tracker
from pipeline.training.records import TrialRecord

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the stage."""
    params = load_params()
    ray_folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    check_writable(paths.STATE, paths.TRIALS.parent, ray_folder)
    with exclusive(paths.STATE / "sweep.lock", "another sweep", wait=is_copy()):
        sweep(params)


def sweep(params: Params) -> None:
    """Run the study that these parameters name to its end."""
    tracker = Tracker(params.tracking, paths.STATE)
    console.print(f"loading the backbone and the features of {len(params.sweep.tasks)} task(s)")
    search, job = open_sweep(params.sweep, params.inputs, params.resolver)
    if not search.n_given_out:
        for name in adoptable(search):
            console.print(f"{name} differs in its code alone: see `loqua adopt --help`")
    searched = {name: axis.words for name, axis in params.sweep.space.items()}
    console.print(f"searched: {', '.join(searched)}; every trial sets its own values")
    with recording(tracker, search.name, search.tags, say) as recorder:
        recorder.begin(search.settings, search.n_trials, searched, ended(search))
        within = params.evaluate.compact_within
        if search.n_given_out < search.n_trials:
            run_trials(search, job, console, Recording(search, recorder, within))
        results = search.results()
        if not results.trials:
            raise ValueError(f"all {search.n_failed} trials failed; see the errors above")
        save_record(paths.TRIALS, results)
        save_record(paths.WINNERS, choose(results, within, params.resolver))
        recorder.progress(search.summary(within))
        recorder.complete(ended(search), params.tracking.patience_s)


@dataclass(frozen=True)
class Recording:
    """Shows in MLflow every trial that ends, and how far the sweep is."""

    search: Search
    recorder: Recorder
    within: float

    def on_round(self, record: TrialRecord) -> None:
        """Do nothing: runs are of trials that ended."""

    def on_finished(self, record: TrialRecord, status: str = "FINISHED") -> None:
        """Show a trial that ran to its end."""
        self.recorder.trial(record, status)
        self.recorder.progress(self.search.summary(self.within))

    def on_pruned(self, record: TrialRecord) -> None:
        """Show a trial that was stopped early."""
        self.on_finished(record, "KILLED")

    def on_failed(self, number: int, error: str) -> None:  # noqa: ARG002 (a listener's)
        """Count a trial that failed."""
        self.recorder.progress(self.search.summary(self.within))


def ended(search: Search) -> Ended:
    """Return the study's trials by MLflow's word for how they ended."""
    results = search.results()
    return {"FINISHED": results.trials, "KILLED": results.pruned}


def say(line: str) -> None:
    """Print a line about the tracking server."""
    console.print(f"[yellow]tracking: {escape(line)}[/yellow]")


if __name__ == "__main__":
    run_stage(main)
