"""The runs of a sweep in MLflow: a view of its study that one thread keeps up to date.

The study keeps every trial; the server shows them. `Recorder` knows what the server should show
and what it has confirmed, and its thread repeats one idempotent step, `_reconcile`, until the two
agree. Nobody waits for the server but the end of the sweep, and then for a limited time; what is
missing after that is added by the next run of the stage, from the study.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.sweep.selection import choose_champion, choose_compact, pareto_front
from pipeline.tracking.tracker import Away, Refused, Tracker
from pipeline.tracking.trial_run import trial_key
from pipeline.tracking.views import describe_sweep
from pipeline.training.records import TrialRecord

Ended = Mapping[str, list[TrialRecord]]
"""Trials that ended, by MLflow's word for how: FINISHED, or KILLED if stopped early."""
LIMIT = 1_000
"""Unconfirmed trials in memory; beyond it they wait in the study."""
PROGRESS_EVERY_S = 5.0
"""Between two updates of the sweep's own run."""
LAST_PATIENCE_S = 3.0
"""How long a sweep that failed or was interrupted waits for the server."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between two attempts while the server is away; each pause is twice the one before."""
SAY_EVERY_S = 10.0
"""Between two lines about what is still unconfirmed."""
STATUS = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
"""MLflow's word for the tag `state` of a sweep."""


@dataclass
class Tally:
    """The sweep so far, in numbers.

    Attributes:
        within: how far the compact winner's score may be from the best.
        finished, pruned, failed: trials.
        front: finished trials that no other beats in score without being larger.
    """

    within: float
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    front: list[TrialRecord] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Trials that ended, however."""
        return self.finished + self.pruned + self.failed

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best score."""
        return choose_champion(self.front) if self.front else None

    def add(self, record: TrialRecord) -> None:
        """Count a finished trial; only the front is kept, which has all winners."""
        self.finished += 1
        self.front = pareto_front([*self.front, record])

    def metrics(self) -> dict[str, float]:
        """Return what the sweep's run shows."""
        counts = {"trials": self.finished, "pruned": self.pruned, "failed": self.failed}
        if not self.front:
            return dict(counts)
        best, compact = choose_champion(self.front), choose_compact(self.front, self.within)
        return {
            **counts,
            "score": best.score,
            "size_bytes": best.size_bytes,
            "compact_score": compact.score,
            "compact_bytes": compact.size_bytes,
        }


@dataclass(frozen=True)
class Trial:
    """A trial that the server has not confirmed.

    Attributes:
        record: of the trial.
        status: MLflow's word for how it ended.
        ended_s: when, since the epoch; None if unknown.
        search: whether its run may exist already.
    """

    record: TrialRecord
    status: str
    ended_s: float | None
    search: bool


@dataclass(frozen=True)
class SweepRun:
    """What the sweep's own run should show; `metrics` hold at `step`, measured at `time_ms`."""

    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    time_ms: int = 0
    searched: Mapping[str, str] = field(default_factory=dict)
    state: str = "running"


class Recorder:
    """The runs of one sweep. Calls return at once, but for `complete` and `end`.

    Attributes:
        recorded: numbers of the trials that the server has confirmed.
        refused: why the server refused something, by what it was.
    """

    def __init__(
        self, tracker: Tracker, study: str, tags: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        """Open the sweep's own run and start the thread; `say` prints a line.

        Raises:
            ValueError: if the server does not answer, or refuses.
        """
        self.tracker, self.study, self.tags, self.say = tracker, study, dict(tags), say
        try:
            with tracker.outcome():
                self.parent = tracker.open_run(study, study, self.tags)
                tracker.log(self.parent, tags={"state": "running"})
                self._known = tracker.logged_trials(self.parent)
                shown = tracker.metrics(self.parent)
        except (Away, Refused) as error:
            raise ValueError(f"tracking.uri: {tracker.place}: {error}") from None
        self.recorded: set[int] = set()
        self.refused: dict[str, str] = {}
        self._trials: dict[int, Trial] = {}
        self._wanted = self._shown = SweepRun(metrics=shown)
        self._in_doubt = self._hurry = self._busy = self._stopped = self._complete = False
        self._defect: Exception | None = None
        self._sent_at = -math.inf
        self._confirmed_at = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def begin(
        self, params: Mapping[str, Any], n_trials: int, searched: Mapping[str, str], ended: Ended
    ) -> None:
        """Show what the sweep is, and the study's trials that the server lacks.

        Args:
            params: of the study.
            n_trials: how many it should have.
            searched: values by axis.
            ended: the study's trials.
        """
        for records in ended.values():
            self.recorded |= {r.number for r in records if trial_key(self.study, r) in self._known}
        self._want(params=params, tags={"n_trials": str(n_trials)}, searched=searched)
        if missing := self._missing(ended):
            self.say(f"{len(missing):,} earlier trials go to {self.tracker.place}")
        self._add(missing)

    def trial(self, record: TrialRecord, status: str = "FINISHED") -> None:
        """Show a trial that ended just now."""
        self._add([Trial(record, status, time.time(), search=False)])

    def progress(self, tally: Tally) -> None:
        """Show how far the sweep is, every few seconds."""
        metrics = tally.metrics()
        if metrics != self._wanted.metrics:
            self._want(metrics=metrics, step=tally.ended, time_ms=int(1000 * time.time()))

    def complete(self, ended: Ended, patience_s: float) -> None:
        """Wait until the server shows all of the study, and end the sweep's run.

        Args:
            ended: all trials of the study.
            patience_s: how long to wait without any confirmation.

        Raises:
            ValueError: if something is not recorded after all.
        """
        agreed = self._wait(patience_s)
        while agreed and (missing := self._missing(ended)):
            self._add(missing)
            agreed = self._wait(patience_s)
        if agreed:
            self._want(state="failed" if self.refused else "complete")
            agreed = self._wait(patience_s)
        self._complete = True
        if self.refused or not agreed:
            raise ValueError(self._unrecorded(ended, patience_s))

    def end(self, state: str) -> None:
        """End the sweep's run as `interrupted` or `failed`, unless it is complete; wait little."""
        if not self._complete:
            if not self._wait(LAST_PATIENCE_S, LAST_PATIENCE_S):
                with self._changed:
                    count = len(self._trials)
                    self._trials.clear()
                self.say(
                    f"{count:,} trials are not recorded at {self.tracker.place} yet; the next run "
                    "records them"
                )
            self._want(state=state)
            self._wait(LAST_PATIENCE_S, LAST_PATIENCE_S)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)  # a request may hang; the thread is a daemon

    def _want(self, **changes: Any) -> None:
        with self._changed:
            self._wanted = replace(self._wanted, **changes)
            self._changed.notify_all()

    def _add(self, trials: list[Trial]) -> None:
        with self._changed:
            for trial in trials[: LIMIT - len(self._trials)]:
                self._trials[trial.record.number] = trial
            self._changed.notify_all()

    def _missing(self, ended: Ended) -> list[Trial]:
        """Return the study's trials that are neither recorded nor refused."""
        return [
            Trial(record, status, None, search=True)
            for status, records in ended.items()
            for record in records
            if record.number not in self.recorded and f"trial {record.number}" not in self.refused
        ]

    @property
    def _agrees(self) -> bool:
        return not self._trials and not self._busy and self._wanted == self._shown

    def _due_in_s(self) -> float | None:
        """Return when there is something to do; None if there is nothing."""
        if self._trials or (self._hurry and self._wanted != self._shown):
            return 0.0
        if self._wanted == self._shown:
            return None
        return max(0.0, self._sent_at + PROGRESS_EVERY_S - time.monotonic())

    def _wait(self, patience_s: float, at_most_s: float = math.inf) -> bool:
        """Wait until the server shows what it should; give up after a time, and return False.

        Args:
            patience_s: how long to wait without any confirmation.
            at_most_s: how long to wait at all.

        Raises:
            Exception: a defect of our own that the thread ran into.
        """
        began = said = time.monotonic()
        with self._changed:
            self._confirmed_at, self._hurry = began, True
            self._changed.notify_all()
            while not self._agrees and not self._defect:
                now = time.monotonic()
                left = min(self._confirmed_at + patience_s, began + at_most_s) - now
                if left <= 0:
                    break
                if now - said >= SAY_EVERY_S:
                    said = now
                    self.say(f"{self._n_waiting} for {self.tracker.place}")
                self._changed.wait(min(left, SAY_EVERY_S))
            self._hurry = False
            if self._defect:
                raise self._defect
            return self._agrees

    @property
    def _n_waiting(self) -> str:
        return f"{len(self._trials):,} trials wait"

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                while not self._stopped and (due := self._due_in_s()) != 0:
                    self._changed.wait(due)
                if self._stopped:
                    return
                self._busy = True
            try:
                self._reconcile()
            except Away as error:
                failures += 1
                if failures == 2:  # one alone is a hiccup
                    self.say(f"{self.tracker.place} is away ({error}); going on, {self._n_waiting}")
                self._pause(min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S))
            except Exception as error:  # raised again where somebody waits
                self._defect = error
            else:
                if failures >= 2:
                    self.say(f"{self.tracker.place} is back; {self._n_waiting}")
                failures = 0
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if self._defect:
                    return

    def _reconcile(self) -> None:
        """Send what the server does not show yet. Repeating it changes nothing there.

        Raises:
            Away: if the server does not answer.
        """
        for number, trial in list(self._trials.items()):
            try:
                self._send(f"trial {number}", self._send_trial, trial)
            except Away:
                with self._changed:  # the request may have arrived, and its answer been lost
                    self._trials[number] = replace(trial, search=True)
                raise
            with self._changed:
                self._trials.pop(number, None)
            if f"trial {number}" not in self.refused:
                self.recorded.add(number)
        wanted = self._wanted
        self._send("the sweep's run", self._send_sweep, wanted)
        self._shown, self._sent_at = wanted, time.monotonic()

    def _send(self, what: str, call: Callable[[Any], None], value: Any) -> None:
        """Send something; note a refusal, and when anything was confirmed."""
        try:
            with self.tracker.outcome():
                call(value)
        except Away:
            self._in_doubt = True
            raise
        except Refused as error:
            if not self.refused:
                self.say(f"{self.tracker.place} refuses {what}: {error}")
            self.refused[what] = str(error)
        self._confirmed_at = time.monotonic()

    def _send_trial(self, trial: Trial) -> None:
        self.tracker.log_trial(
            self.parent, self.study, trial.record, self.tags, trial.status, trial.ended_s,
            trial.search,
        )  # fmt: skip

    def _send_sweep(self, wanted: SweepRun) -> None:
        shown = self._shown
        if wanted.searched != shown.searched:
            now = int(1000 * time.time())
            describe_sweep(self.tracker, self.parent, self.study, wanted.searched, now)
        rows = [(name, value, wanted.step) for name, value in wanted.metrics.items()]
        tags = {**wanted.tags, "state": wanted.state}
        fresh = rows if wanted.metrics != shown.metrics else []
        self.tracker.log(self.parent, wanted.params, fresh, tags, lambda _: wanted.time_ms)
        if wanted.state in STATUS:
            if self._in_doubt:  # a lost answer may have left two runs of one key
                self.tracker.logged_trials(self.parent)
            self.tracker.close_run(self.parent, STATUS[wanted.state])

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            while not self._stopped and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _unrecorded(self, ended: Ended, patience_s: float) -> str:
        place, records = self.tracker.place, [r for found in ended.values() for r in found]
        recorded = len({record.number for record in records} & self.recorded)
        again = (
            "The sweep is finished and its results are written; run the same command again to "
            "record the rest, which trains nothing"
        )
        if self.refused:
            (what, why), *_ = self.refused.items()
            return (
                f"tracking: {place} refused {len(self.refused):,} records, first {what}: {why}. "
                f"{again}"
            )
        return (
            f"tracking: {place} did not answer for {patience_s:g} s (tracking.patience_s); "
            f"{recorded:,} of {len(records):,} trials are recorded. {again}"
        )


@contextmanager
def recording(
    tracker: Tracker, study: str, tags: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[Recorder]:
    """Open a sweep's runs; the sweep's own ends with the block, however that ends.

    Raises:
        ValueError: if the server does not answer, or refuses.
    """
    with tracker.one_try():
        recorder, state = Recorder(tracker, study, tags, say), "failed"
        try:
            yield recorder
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            recorder.end(state)
