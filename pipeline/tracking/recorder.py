"""What the tracking server is told of a sweep, and when: never in the sweep's way.

The study keeps every trial; the server shows a view of it. So trials go to it through a queue
that never makes the sweep wait, and the view is made complete from the study: at the end of the
sweep, or, if the server is away then, by the next run of the stage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.sweep.selection import choose_champion, choose_compact, pareto_front
from pipeline.tracking.delivery import LIMIT, Away, Delivery, Refused
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.trial_run import trial_key
from pipeline.tracking.views import describe_sweep
from pipeline.training.records import TrialRecord

Ended = Mapping[str, list[TrialRecord]]
"""Trials that ended, by MLflow's word for how: FINISHED, or KILLED if stopped early."""
PROGRESS_EVERY_S = 5.0
"""Between two updates of the sweep's own run."""
LAST_PATIENCE_S = 3.0
"""How long a sweep that failed or was interrupted waits for the server."""
STATUS = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
"""MLflow's word for what the tag `state` says of a sweep."""


@dataclass
class Tally:
    """What is known of a sweep so far.

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
        """Count a finished trial; only the front is kept, on which all winners stand."""
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


class SweepLog:
    """The runs of one sweep. Calls return at once, but for `complete` and `end`."""

    def __init__(
        self, tracker: Tracker, study: str, tags: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        """Open the sweep's own run, and begin to deliver; `say` prints a line.

        Raises:
            ValueError: if the server does not answer, or refuses.
        """
        self.tracker, self.study, self.tags, self.say = tracker, study, dict(tags), say
        try:
            with tracker.outcome():
                self.parent = tracker.open_run(study, study, self.tags)
                tracker.log(self.parent, tags={"state": "running"})
                self.known = tracker.logged_trials(self.parent)
                self.shown = tracker.metrics(self.parent)
        except (Away, Refused) as error:
            raise ValueError(f"tracking.uri: {tracker.place}: {error}") from None
        self.told: set[int] = set()
        self.closed = False
        self.delivery = Delivery(tracker.place, say)

    def begin(self, params: Mapping[str, Any], n_trials: int, ended: Ended) -> None:
        """Tell what the sweep is, and the trials of the study that were not told before.

        Args:
            params: of the study.
            n_trials: that it shall have.
            ended: the study's trials.
        """
        self.told |= {
            record.number
            for records in ended.values()
            for record in records
            if trial_key(self.study, record) in self.known
        }
        self._put(
            "the parameters", self.tracker.log, self.parent, params, (), {"n_trials": str(n_trials)}
        )
        missing = self._missing(ended)
        if missing:
            self.say(f"{len(missing):,} earlier trials go to {self.tracker.place}")
        self._catch_up(missing)

    def describe(self, searched: Mapping[str, str]) -> None:
        """Tell what is searched, values by axis, and save views of the trials for the UI."""
        now = int(1000 * time.time())
        self._put("the views", describe_sweep, self.tracker, self.parent, self.study, searched, now)

    def trial(self, record: TrialRecord, status: str = "FINISHED") -> None:
        """Tell of a trial that ended just now."""
        send = partial(self._tell_trial, record, status, time.time(), False)
        self.delivery.put(f"trial {record.number}", send)

    def progress(self, tally: Tally) -> None:
        """Tell how far the sweep is, at most every few seconds; only the newest counts."""
        metrics = tally.metrics()
        if metrics == self.shown:
            return
        self.shown = metrics
        now = int(time.time() * 1000)
        rows = [(name, value, tally.ended) for name, value in metrics.items()]
        self._put(
            "progress", self.tracker.log, self.parent, None, rows, None, lambda _: now,
            delay_s=PROGRESS_EVERY_S,
        )  # fmt: skip

    def complete(self, ended: Ended, patience_s: float) -> None:
        """Deliver all that is not delivered yet and end the sweep's run.

        Args:
            ended: all trials of the study.
            patience_s: how long to wait without any progress.

        Raises:
            ValueError: if something is not delivered after all.
        """
        delivered = self.delivery.drain(patience_s)
        while delivered and (missing := self._missing(ended)):
            self._catch_up(missing)
            delivered = self.delivery.drain(patience_s)
        if delivered:
            if self.delivery.in_doubt:  # a run may stand there twice
                self._put("duplicates", self.tracker.logged_trials, self.parent)
            delivered = self._close("failed" if self.delivery.refused else "complete", patience_s)
        self.closed = True
        if self.delivery.refused or not delivered:
            raise ValueError(self._undelivered(ended, patience_s))

    def end(self, state: str) -> None:
        """End the sweep's run as `interrupted` or `failed`, unless it is complete; wait little."""
        if not self.closed:
            if not self.delivery.drain(LAST_PATIENCE_S, LAST_PATIENCE_S):
                count = self.delivery.clear()
                self.say(
                    f"{count:,} records wait for {self.tracker.place}; the next run sends them"
                )
            self._close(state, LAST_PATIENCE_S)
        self.delivery.stop()

    def _put(self, key: str, call: Callable[..., Any], *args: Any, delay_s: float = 0) -> None:
        def send(again: bool) -> None:  # noqa: ARG001 (repeating these changes nothing)
            with self.tracker.outcome():
                call(*args)

        self.delivery.put(key, send, delay_s)

    def _tell_trial(
        self, record: TrialRecord, status: str, ended: float | None, search: bool, again: bool
    ) -> None:
        with self.tracker.outcome():
            self.tracker.log_trial(
                self.parent, self.study, record, self.tags, status, ended, search or again
            )
        self.told.add(record.number)

    def _close(self, state: str, patience_s: float) -> bool:
        self._put("the state", self.tracker.log, self.parent, None, (), {"state": state})
        self._put("the end", self.tracker.close_run, self.parent, STATUS[state])
        return self.delivery.drain(patience_s, patience_s if state != "complete" else math.inf)

    def _missing(self, ended: Ended) -> list[tuple[TrialRecord, str]]:
        return [
            (record, status)
            for status, records in ended.items()
            for record in records
            if record.number not in self.told
            and f"trial {record.number}" not in self.delivery.refused
        ]

    def _catch_up(self, missing: list[tuple[TrialRecord, str]]) -> None:
        """Tell of trials that may have been told before, as many as fit."""
        for record, status in missing[: LIMIT // 2]:
            send = partial(self._tell_trial, record, status, None, True)
            self.delivery.put(f"trial {record.number}", send)

    def _undelivered(self, ended: Ended, patience_s: float) -> str:
        place, total = self.tracker.place, sum(len(records) for records in ended.values())
        recorded = len({r.number for records in ended.values() for r in records} & self.told)
        again = (
            "The sweep is finished and its results are written; run the same command again to "
            "record the rest, which trains nothing"
        )
        if self.delivery.refused:
            (what, why), *_ = self.delivery.refused.items()
            return (
                f"tracking: {place} refused {len(self.delivery.refused):,} records, first {what}: "
                f"{why}. {again}"
            )
        return (
            f"tracking: {place} did not answer for {patience_s:g} s (tracking.patience_s); "
            f"{recorded:,} of {total:,} trials are recorded. {again}"
        )


@contextmanager
def sweep_log(
    tracker: Tracker, study: str, tags: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[SweepLog]:
    """Open a sweep's runs; the sweep's own ends with the block, however that ends.

    Raises:
        ValueError: if the server does not answer, or refuses.
    """
    with tracker.one_try():
        log, state = SweepLog(tracker, study, tags, say), "failed"
        try:
            yield log
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            log.end(state)
