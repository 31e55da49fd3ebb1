"""What a sweep prints: a line for each trial, and how long the rest will take."""

from __future__ import annotations

from statistics import mean

from rich.console import Console

from pipeline.sweep.study import Search
from pipeline.training.records import TrialRecord


class Progress:
    """Prints a line for every trial that ends, and for every round until the first one has."""

    def __init__(self, search: Search, n_workers: int, console: Console) -> None:
        """Count what the study has; `n_workers` trials run at once."""
        self.search, self.n_workers, self.console = search, n_workers, console
        known = search.results()
        lasted_s = [record.seconds for record in (*known.trials, *known.pruned)]
        self.n_known, self.total_s = len(lasted_s), sum(lasted_s)

    def on_round(self, record: TrialRecord) -> None:
        """Print how far a trial is, as long as there is no other news."""
        if not self.n_known:
            n_rounds = self.search.running[record.number].train.rounds
            self.console.print(
                f"trial {record.number}: round {len(record.history)} of {n_rounds}, "
                f"HM {100 * record.score:.1f}, {self.left()}"
            )

    def on_finished(self, record: TrialRecord) -> None:
        """Print what a trial reached."""
        self._print(record, "*" if record == self.search.best else "")

    def on_pruned(self, record: TrialRecord) -> None:
        """Print what a trial reached, and when it was stopped."""
        self._print(record, f"stopped in round {len(record.history)}")

    def on_failed(self, number: int, error: str) -> None:
        """Print what went wrong."""
        self.console.print(f"[red]trial {number} failed: {error}[/red]")

    def left(self) -> str:
        """Return the time that the rest takes: mean seconds of a trial by workers.

        Before the first trial has ended, the trials that run stand for the mean.
        """
        live, search = self.search.live(), self.search
        if self.n_known:
            mean_s = self.total_s / self.n_known
        else:
            mean_s = mean(
                record.seconds * search.running[record.number].train.rounds / len(record.history)
                for record in live
            )
        done_s = sum(min(record.seconds, mean_s) for record in live)
        n_left = search.n_trials - search.n_ended
        return duration((n_left * mean_s - done_s) / min(self.n_workers, max(1, n_left)))

    def _print(self, record: TrialRecord, mark: str) -> None:
        self.n_known += 1
        self.total_s += record.seconds
        search = self.search
        done = search.n_finished + search.n_pruned
        end = f"  {self.left()}" if search.n_ended < search.n_trials else ""
        line = trial_line(record, done, search.n_trials)
        self.console.print(f"{line} {mark}".rstrip() + f"[dim]{end}[/dim]")


def trial_line(record: TrialRecord, done: int, total: int) -> str:
    """Describe a trial that ended in one line."""
    settings = "  ".join(
        f"{key.rpartition('.')[2]} {value:<7.3g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]} {value!s:<4}"
        for key, value in record.settings.items()
    )
    return (
        f"{done:>4}/{total}  {settings}  base {100 * record.base:5.1f}  "
        f"new {100 * record.new:5.1f}  HM {100 * record.score:5.1f}  "
        f"{record.size_bytes:>6} B  {record.seconds:5.1f} s"
    )


def duration(seconds: float) -> str:
    """Return a time that is left, in the largest unit that fits."""
    for unit, size_s in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size_s:
            return f"about {seconds / size_s:.0f} {unit} left"
    return f"about {max(seconds, 0):.0f} s left"
