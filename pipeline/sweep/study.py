"""The search: which trials a sweep runs, and the durable memory of all that it ran.

The storage has every trial from its start on, and every result the moment it arrives; a sweep that
was interrupted resumes from there. While it runs, the storage is only written: what the search must
know of the past is in memory, where other threads can read it, too.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import TypeAdapter

from pipeline.sweep.config import SweepConfig
from pipeline.sweep.job import TrialSpec
from pipeline.sweep.sampler import Sampler, directions, distributions, objectives, steps
from pipeline.sweep.selection import choose_champion, pareto_front, summary
from pipeline.training.records import FailedTrial, SweepResults, TrialRecord
from pipeline.training.settings import Resolver, Settings

RECORD = TypeAdapter(TrialRecord)
MAX_ROUNDS = 10**6


@dataclass
class Known:
    """What is known of a trial.

    Attributes:
        storage_id: in the storage; 0 for a trial of an old study that ended.
        settings: values of the axes.
        state: as Optuna has it.
        result: its record so far, or why it failed; None before its first round has ended.
    """

    storage_id: int
    settings: Settings
    state: TrialState
    result: TrialRecord | FailedTrial | None = None


class Search:
    """A resumable study: score up and bytes down, or score alone.

    What is decided for trial k depends only on the sweep's settings, on k, and on the results of
    the trials up to k - `lag`; see `SweepConfig.lag`. `ask` and `tell` cost the same however many
    trials there are, the storage's own work aside.

    Attributes:
        storage: Optuna's, in which all studies of the file are.
        about: what the study says of itself: `inputs` and `tags`.
        n_trials: the largest number of trials.
        running: the trials that run now, by number.
        front: finished trials that no other beats in score without being larger, smallest first.
        exhausted: whether no new settings were found, though more trials were allowed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        config: SweepConfig,
        resolver: Resolver,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Open or create the study `name` in a sqlite file.

        Trials that were running when the last driver stopped run again, under their numbers.

        Args:
            path: the file.
            name: of the study.
            config: what is searched.
            resolver: turns settings into configurations.
            about: what a new study says of itself; an old one keeps what it has.

        Raises:
            ValueError: if the file cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.config, self.resolver = name, config, resolver
        self.space, self.n_trials = distributions(config.space), config.limit
        self.running: dict[int, TrialSpec] = {}
        self.front: list[TrialRecord] = []
        self.exhausted = False
        self._sampler = Sampler(config)
        self._lock = threading.Lock()
        self._trials: list[Known] = []
        self._counts: Counter[TrialState] = Counter()
        self._tried: set[tuple[Any, ...]] = set()
        self._interrupted: list[int] = []
        self._unseen: list[int] = []
        self._rungs: dict[int, dict[int, float]] = {n: {} for n in rungs(config)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            study = optuna.create_study(
                storage=self.storage,
                study_name=name,
                load_if_exists=True,
                directions=directions(config),
            )
            self._study_id = self.storage.get_study_id_from_name(name)
            self.about = {**(about or {}), **study.user_attrs}
            for key in self.about.keys() - study.user_attrs.keys():
                study.set_user_attr(key, self.about[key])
            old = study.get_trials(deepcopy=False)
        except Exception as error:  # sqlalchemy and alembic raise many kinds
            raise ValueError(f"{path}: not a usable study database: {error}") from None
        for trial in old:
            self._load(trial)

    @property
    def study(self) -> optuna.Study:
        """The study as Optuna reads it now."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    @property
    def n_given_out(self) -> int:
        """Trials that run or ended; not those that were interrupted and wait to run again."""
        return len(self._trials) - len(self._interrupted)

    @property
    def n_finished(self) -> int:
        """Trials that ran to their end."""
        return self._counts[TrialState.COMPLETE]

    @property
    def n_pruned(self) -> int:
        """Trials that were stopped early."""
        return self._counts[TrialState.PRUNED]

    @property
    def n_failed(self) -> int:
        """Trials that failed."""
        return self._counts[TrialState.FAIL]

    @property
    def n_ended(self) -> int:
        """Trials that ended, however."""
        return self._counts.total()

    @property
    def waits(self) -> bool:
        """Whether a trial may have to wait for the results of others."""
        last = self.n_trials - 1
        return self.config.lag > 0 and self._depends_on_results(last)

    @property
    def tags(self) -> dict[str, str]:
        """The study's tags: those of its first run, and what it has adopted."""
        return dict(self.about.get("tags", {}))

    @property
    def settings(self) -> dict[str, Any]:
        """What every trial's settings are relative to, by dotted name."""
        return dict(self.about["inputs"]["settings"])

    @property
    def best(self) -> TrialRecord | None:
        """The champion of the finished trials, or None."""
        return choose_champion(self.front) if self.front else None

    def results(self) -> SweepResults:
        """Return all trials that ended; any thread may call it."""
        return SweepResults(
            study=self.name,
            tags=self.tags,
            trials=self._records(TrialState.COMPLETE),
            pruned=self._records(TrialState.PRUNED),
            failed=[one for one in self._results(TrialState.FAIL) if isinstance(one, FailedTrial)],
        )

    def live(self) -> list[TrialRecord]:
        """Return the records so far of the trials that run; any thread may call it."""
        found = [self._trials[number].result for number in list(self.running)]
        return [one for one in found if isinstance(one, TrialRecord)]

    def ask(self) -> TrialSpec | None:
        """Begin the next trial; None if all are given out, or if it must wait for results.

        Proposals that are not feasible, or were tried before, are passed over and not written.
        """
        if self._interrupted:
            number = self._interrupted.pop(0)
            return self._begin(number, self._spec(number, self._trials[number].settings))
        number = len(self._trials)
        if self.exhausted or number >= self.n_trials or self._must_wait(number):
            return None
        unseen = self._show(number) if self._sampler.uses_results(number) else []
        for settings in self._sampler.propose(number, unseen):
            spec = self._spec(number, settings)
            if self._key(settings) not in self._tried and spec.prompt.infeasible() is None:
                self._add(self._write(TrialState.RUNNING, settings), settings)
                return self._begin(number, spec)
        self.exhausted = True
        return None

    def note(self, record: TrialRecord) -> None:
        """Keep the record of a trial that runs, after a round."""
        self._trials[record.number].result = record
        if (n_rounds := len(record.history)) in self._rungs:
            self._rungs[n_rounds][record.number] = record.score

    def falls_behind(self, record: TrialRecord) -> bool:
        """Return whether a trial is stopped at the end of this round.

        With `objective: score`, at rungs `grace_rounds * reduction_factor^i`, a trial is stopped if
        its score is below the best 1 / `reduction_factor` of those that others had there: ASHA's
        rule (arXiv 1810.05934). Of these, the trials up to `lag` before it count, all of which have
        ended; with a lag of 0 all that have come there so far.
        """
        last = record.number - self.config.lag if self.config.lag else math.inf
        scores = [
            score
            for number, score in self._rungs.get(len(record.history), {}).items()
            if number <= last and number != record.number
        ]
        best = 1 / self.config.asha.reduction_factor
        return bool(scores) and record.score < float(np.percentile(scores, 100 * (1 - best)))

    def tell(self, record: TrialRecord) -> TrialState:
        """Keep a trial that ended, and return how: stopped early if it has rounds left.

        A score that is not finite is a failure.
        """
        number = record.number
        if not math.isfinite(record.score):
            self.tell_failed(number, f"the score is {record.score}")
            return TrialState.FAIL
        pruned = len(record.history) < self.running[number].train.rounds
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        storage_id, scores = self._trials[number].storage_id, steps(record, self.config)
        for step, score in enumerate(scores, 1):
            self.storage.set_trial_intermediate_value(storage_id, step, score)
        self.storage.set_trial_user_attr(storage_id, "record", RECORD.dump_json(record).decode())
        values = scores[-1:] if pruned else objectives(record, self.config)
        self.storage.set_trial_state_values(storage_id, state, values)
        self._end(number, state, record)
        return state

    def tell_failed(self, number: int, error: str) -> None:
        """Keep the fact that a trial failed, and why."""
        known = self._trials[number]
        self.storage.set_trial_user_attr(known.storage_id, "error", error)
        self.storage.set_trial_state_values(known.storage_id, TrialState.FAIL)
        self._end(number, TrialState.FAIL, failed_trial(number, known.settings, error))

    def summary(self, within: float) -> dict[str, float]:
        """Return the sweep so far in numbers; see `selection.summary`."""
        return summary(self.n_finished, self.n_pruned, self.n_failed, self.front, within)

    def note_adopted(self, what: str) -> None:
        """Tag the study with what it has adopted."""
        adopted = "; ".join(filter(None, [self.tags.get("adopted"), what]))
        self.about["tags"] = self.tags | {"adopted": adopted}
        self.study.set_user_attr("tags", self.about["tags"])

    def adopt(self, trial: FrozenTrial) -> bool:
        """Add a trial of another study with its record; return False if its settings were tried.

        It gets the next number, and keeps everything else, the origin in its record too.
        """
        if self._key(trial.params) in self._tried:
            return False
        number = len(self._trials)
        record = replace(RECORD.validate_json(trial.user_attrs["record"]), number=number)
        attributes = {"record": RECORD.dump_json(record).decode()}
        self._write(
            trial.state,
            trial.params,
            values=trial.values if trial.state == TrialState.COMPLETE else None,
            intermediate_values=trial.intermediate_values,
            user_attrs=attributes,
        )
        self._add(0, dict(trial.params))
        self._end(number, trial.state, record)
        return True

    def _load(self, trial: FrozenTrial) -> None:
        """Take a trial of an old study."""
        number, state = trial.number, trial.state
        find_id = self.storage.get_trial_id_from_study_id_trial_number
        again = state == TrialState.RUNNING
        self._add(find_id(self._study_id, number) if again else 0, dict(trial.params))
        if again:
            self._interrupted.append(number)
        elif state in (TrialState.COMPLETE, TrialState.PRUNED):
            record = RECORD.validate_json(trial.user_attrs["record"])
            for n_rounds, measured in enumerate(record.history, 1):
                if n_rounds in self._rungs:
                    self._rungs[n_rounds][number] = measured["score"]
            self._end(number, state, record)
        else:
            error = trial.user_attrs.get("error", "no error was recorded")
            self._end(number, TrialState.FAIL, failed_trial(number, trial.params, error))

    def _records(self, state: TrialState) -> list[TrialRecord]:
        return [one for one in self._results(state) if isinstance(one, TrialRecord)]

    def _results(self, state: TrialState) -> list[TrialRecord | FailedTrial | None]:
        with self._lock:
            return [one.result for one in self._trials if one.state == state]

    def _must_wait(self, number: int) -> bool:
        """Return whether a trial depends on one that runs."""
        lag = self.config.lag
        late = lag > 0 and any(other <= number - lag for other in self.running)
        return late and self._depends_on_results(number)

    def _depends_on_results(self, number: int) -> bool:
        return self._sampler.uses_results(number) or self.config.objective == "score"

    def _show(self, number: int) -> list[Settings]:
        """Show the sampler the results that this proposal uses; return the settings of the rest."""
        lag, waiting = self.config.lag, []
        for other in self._unseen:
            known = self._trials[other]
            if other > number - lag if lag else known.state == TrialState.RUNNING:
                waiting.append(other)
            elif isinstance(known.result, TrialRecord):
                self._sampler.show(known.settings, known.result, known.state == TrialState.PRUNED)
        self._unseen = waiting
        return [self._trials[other].settings for other in waiting]

    def _spec(self, number: int, settings: Settings) -> TrialSpec:
        expanded = self.resolver.expand(settings)
        return TrialSpec(number, expanded, *self.resolver.resolve(settings))

    def _key(self, settings: Settings) -> tuple[Any, ...]:
        return tuple(settings.get(name) for name in self.space)

    def _write(self, state: TrialState, settings: Settings, **result: Any) -> int:
        """Write a trial in one transaction; return its id in the storage."""
        trial = create_trial(state=state, params=settings, distributions=self.space, **result)
        return self.storage.create_new_trial(self._study_id, trial)

    def _add(self, storage_id: int, settings: Settings) -> None:
        with self._lock:
            self._unseen.append(len(self._trials))
            self._trials.append(Known(storage_id, settings, TrialState.RUNNING))
        self._tried.add(self._key(settings))

    def _begin(self, number: int, spec: TrialSpec) -> TrialSpec:
        self.running[number] = spec
        return spec

    def _end(self, number: int, state: TrialState, result: TrialRecord | FailedTrial) -> None:
        with self._lock:
            self._trials[number].result, self._trials[number].state = result, state
        self._counts[state] += 1
        self.running.pop(number, None)
        if state == TrialState.COMPLETE and isinstance(result, TrialRecord):
            self.front = pareto_front([*self.front, result])


def failed_trial(number: int, settings: Settings, error: str) -> FailedTrial:
    """Return the record of a trial that failed; the error may have many lines."""
    return FailedTrial(number, dict(settings), error.strip().splitlines()[-1])


def rungs(config: SweepConfig) -> list[int]:
    """Return after which rounds trials are compared: none if all run to their end."""
    found: list[int] = []
    rung = float(config.asha.grace_rounds)
    while config.objective == "score" and rung <= MAX_ROUNDS:
        found.append(math.ceil(rung))
        rung *= config.asha.reduction_factor
    return found
