"""The search: which configurations a sweep tries, and the memory of all that it tried.

The study's storage is the sweep's memory: every finished trial is in it, with everything that
was measured, the moment it finishes. A sweep that was interrupted goes on from there. While it
runs, the storage is only written; what has to be known of the past is counted here.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.sweep.config import AshaConfig, Choice, Range, SweepConfig, Value
from pipeline.sweep.sampler import ENDED, Proposals, Settings, distributions
from pipeline.sweep.selection import choose_champion
from pipeline.training.records import FailedTrial, TrialRecord

__all__ = ["AshaConfig", "Choice", "Range", "Search", "SweepConfig", "Value"]

MAX_REJECTED_TPE = 5
"""Rejected proposals in a row after which one is drawn at random: TPE learns nothing from them."""
MAX_REJECTED = 200
"""Proposals in a row without a new one, after which the space counts as exhausted."""


class Search:
    """A resumable study: score up and bytes down, or score alone.

    `ask` and `tell` cost the same however many trials there are, the storage's own work aside.

    Attributes:
        n_trials: that are given out, at most.
        n_given_out: trials that run, finished, were stopped early or failed.
        n_finished, n_pruned, n_failed: trials that ran to their end, were stopped early, or
            failed while training.
        best: the champion of the finished trials so far, or None.
        exhausted: whether no new configuration was found, though more trials were allowed.
        running: storage ids of the trials that run, by number.
    """

    def __init__(self, path: Path, name: str, config: SweepConfig) -> None:
        """Open or create the study `name` in a sqlite file.

        A new study gets the configurations of `config.first`. In an old one, trials that were
        running when the last driver stopped are told as failed and queued again.

        Raises:
            ValueError: if the file cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.space = name, distributions(config.space)
        self.n_trials, self.objective = config.limit, config.objective
        self.n_finished = self.n_pruned = self.n_failed = 0
        self.best: TrialRecord | None = None
        self.exhausted = False
        self.running: dict[int, int] = {}
        self._tried: dict[tuple[Any, ...], int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                load_if_exists=True,
                directions=["maximize", "minimize"] if self._pareto else ["maximize"],
            )
            self._study_id = self._storage.get_study_id_from_name(name)
        except Exception as error:  # sqlalchemy and alembic raise many kinds
            raise ValueError(f"{path}: not a usable study database: {error}") from None
        old = study.get_trials(deepcopy=False)
        seed = config.sampler_seed + len(old)  # an old study must not get its own proposals again
        self.proposals = Proposals(config, seed)
        self.grid = config.grid() if config.sampler == "grid" else None
        self._remember(old)
        for settings in config.first:  # again in an old study: its driver may have died here
            study.enqueue_trial(dict(settings), skip_if_exists=True)
        for trial in old:
            if trial.state == TrialState.RUNNING:  # queued first: one too many is a repeat
                study.enqueue_trial({**queued_settings(trial), **trial.params})
                study.tell(trial.number, state=TrialState.FAIL)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._queue = deque((trial.number, queued_settings(trial)) for trial in waiting)

    @property
    def study(self) -> optuna.Study:
        """The study as Optuna reads it, anew: nothing of it is kept here."""
        return optuna.load_study(study_name=self.name, storage=self._storage)

    @property
    def _pareto(self) -> bool:
        return self.objective == "pareto"

    @property
    def n_given_out(self) -> int:
        """Trials that run, finished, were stopped early or failed."""
        return len(self.running) + self.n_finished + self.n_pruned + self.n_failed

    def _remember(self, trials: list[FrozenTrial]) -> None:
        """Count what an old study did, and show it to the sampler."""
        seen = []
        for trial in trials:
            failed = "error" in trial.user_attrs
            if trial.state in ENDED or failed:
                self._tried.setdefault(self._key(trial.params), trial.number)
            self.n_failed += failed
            if trial.state in ENDED:
                self._count(record_of(trial), trial.state == TrialState.PRUNED)
                seen.append(without_attributes(trial))
        self.proposals.remember(seen)

    def _key(self, settings: Settings) -> tuple[Any, ...]:
        return tuple(settings[name] for name in self.space)

    def _count(self, record: TrialRecord, pruned: bool) -> None:
        self.n_pruned += pruned
        self.n_finished += not pruned
        if not pruned:
            self.best = choose_champion([record, self.best] if self.best else [record])

    def ask(self, accept: Callable[[Settings], str | None]) -> tuple[int, Settings] | None:
        """Return the next trial's number and settings, or None if all trials are given out.

        Args:
            accept: takes settings, returns why they are not feasible, or None. Proposals that
                are not feasible, or were tried before, are passed over and not written; queued
                configurations are told to the study as failed, with the reason.
        """
        rejected = 0
        while self.n_given_out < self.n_trials:
            if rejected == MAX_REJECTED and self.grid is None:
                self.exhausted = True
                return None
            queued = self._queue.popleft() if self._queue else None
            settings = queued[1] if queued else self._propose(rejected >= MAX_REJECTED_TPE)
            if settings is None:
                self.exhausted = True
                return None
            reason = self._lacks(settings) or accept(settings) or self._repeats(settings)
            if reason is None:
                return self._start(queued, settings), dict(settings)
            if queued:
                self._refuse(queued[0], reason)
            elif self.grid is None:
                self.proposals.reject()
            rejected += 1
        return None

    def _propose(self, explore: bool) -> Settings | None:
        if self.grid is not None:
            return next(self.grid, None)
        return self.proposals.propose(explore)

    def _lacks(self, settings: Settings) -> str | None:
        missing = sorted(set(self.space) - set(settings))
        return f"no value for {missing}" if missing else None

    def _repeats(self, settings: Settings) -> str | None:
        number = self._tried.get(self._key(settings))
        return None if number is None else f"same settings as trial {number}"

    def _start(self, queued: tuple[int, Settings] | None, settings: Settings) -> int:
        """Write a trial that begins into the storage; return its number."""
        if queued:
            number, trial_id = queued[0], self._begin_queued(queued[0])
            for name, axis in self.space.items():
                value = axis.to_internal_repr(settings[name])
                self._storage.set_trial_param(trial_id, name, value, axis)
        else:
            trial = create_trial(
                state=TrialState.RUNNING, params=settings, distributions=self.space
            )
            trial_id = self._storage.create_new_trial(self._study_id, trial)
            number = self._storage.get_trial_number_from_id(trial_id)
        self.proposals.accept(number, settings)
        self.running[number] = trial_id
        self._tried[self._key(settings)] = number
        return number

    def _refuse(self, number: int, reason: str) -> None:
        """Write into the storage that a queued configuration is not tried, and why."""
        trial_id = self._begin_queued(number)
        self._storage.set_trial_user_attr(trial_id, "rejected", reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _begin_queued(self, number: int) -> int:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return trial_id

    def tell(self, number: int, record: TrialRecord) -> None:
        """Keep a finished trial."""
        self._end(number, record, pruned=False)

    def tell_pruned(self, number: int, record: TrialRecord) -> None:
        """Keep a trial that was stopped early, as pruned."""
        self._end(number, record, pruned=True)

    def _end(self, number: int, record: TrialRecord, pruned: bool) -> None:
        if not math.isfinite(record.score):
            return self.tell_failed(number, f"the score is {record.score}")
        trial_id = self.running.pop(number)
        # Optuna takes no intermediate values with two objectives.
        steps = [] if self._pareto else [measured["score"] for measured in record.history]
        values = [record.score, float(record.size_bytes)] if self._pareto else [record.score]
        self._storage.set_trial_user_attr(trial_id, "record", json.dumps(asdict(record)))
        for step, value in enumerate(steps, start=1):
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        self._storage.set_trial_state_values(trial_id, state, steps[-1:] if pruned else values)
        self.proposals.tell(number, None if pruned else values, steps)
        self._count(record, pruned)
        return None

    def tell_failed(self, number: int, error: str) -> None:
        """Keep the fact that a trial failed, and why."""
        trial_id = self.running.pop(number)
        self._storage.set_trial_user_attr(trial_id, "error", error)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self.proposals.fail(number)
        self.n_failed += 1

    def finished(self) -> list[TrialRecord]:
        """Read every finished trial from the storage, in order of number."""
        return self._records(TrialState.COMPLETE)

    def pruned(self) -> list[TrialRecord]:
        """Read every trial that was stopped early, in order of number, as far as it got."""
        return self._records(TrialState.PRUNED)

    def failed(self) -> list[FailedTrial]:
        """Read every trial that failed while training, in order of number."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [
            FailedTrial(trial.number, dict(trial.params), error.strip().splitlines()[-1])
            for trial in trials
            if (error := trial.user_attrs.get("error"))
        ]

    def _records(self, state: TrialState) -> list[TrialRecord]:
        trials = self.study.get_trials(deepcopy=False, states=(state,))
        return [record_of(trial) for trial in trials]


def record_of(trial: FrozenTrial) -> TrialRecord:
    """Return what was kept of a trial that ended."""
    return TrialRecord(**json.loads(trial.user_attrs["record"]))


def queued_settings(trial: FrozenTrial) -> Settings:
    """Return the settings that a trial was queued with, if it was."""
    return dict(trial.system_attrs.get("fixed_params", {}))  # Optuna's own key


def without_attributes(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial with what a sampler looks at, and no more."""
    seen = create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )
    seen.number = trial.number
    return seen
