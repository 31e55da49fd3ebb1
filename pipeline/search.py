"""The search: which configurations a sweep tries. The only module that imports optuna.

The study's storage is the sweep's memory: every finished trial is in it, with everything that
was measured, the moment it finishes. A sweep that was interrupted goes on from there.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, RootModel, model_validator

from pipeline.config import Config
from pipeline.selection import TrialRecord
from pipeline.validation import Validation

Value = bool | int | float | str
STARTUP_TRIALS = 8
"""Random proposals before TPE has something to learn from."""
MAX_REJECTED_TPE = 5
"""Rejected proposals in a row after which one is drawn at random: TPE learns nothing from them."""
MAX_REJECTED = 200
"""Proposals in a row without a new one, after which the space counts as exhausted."""


class Choice(RootModel[Annotated[list[Value], Field(min_length=1)]]):
    """An axis with a few values."""

    @property
    def ends(self) -> list[Value]:
        """Every value, for a check before the sweep."""
        return self.root

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of them."""
        return value in self.root

    def __str__(self) -> str:
        """Say it to people."""
        return f"one of {self.root}"

    def distribution(self) -> BaseDistribution:
        """Return it in Optuna's terms."""
        return CategoricalDistribution(self.root)

    def draw(self, rng: random.Random) -> Value:
        """Draw a value."""
        return rng.choice(self.root)


class Range(Config):
    """An axis with all values between two."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log: true")
        return self

    @property
    def ends(self) -> list[Value]:
        """Both ends, for a check before the sweep."""
        return [self.low, self.high]

    def holds(self, value: Value) -> bool:
        """Return whether a value lies between them."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        """Say it to people."""
        return f"{self.low:g} to {self.high:g}"

    def distribution(self) -> BaseDistribution:
        """Return it in Optuna's terms."""
        return FloatDistribution(self.low, self.high, log=self.log)

    def draw(self, rng: random.Random) -> Value:
        """Draw a value, from the logarithms if `log`."""
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


class AshaConfig(Config):
    """Asynchronous successive halving (ASHA, arXiv 1810.05934), over the rounds of a trial."""

    grace_rounds: int = Field(default=1, ge=1)
    """Rounds that every trial gets."""
    reduction_factor: float = Field(default=3, gt=1)
    """Of the trials that reach a rung, one in so many goes on."""


class SweepConfig(Config):
    """What is searched, on what, and with which resources."""

    tasks: list[str] = Field(min_length=1)
    shots: int = Field(ge=1)
    seeds: list[int] = Field(min_length=1)
    validation: Validation = "all"
    """All validation images, or those that the public rule draws; see `validation_rows`."""
    n_trials: int = Field(ge=1)
    objective: Literal["pareto", "score"] = "pareto"
    """Score and bytes, with every trial run to its end; or score alone, where trials that fall
    behind are stopped early (`asha`)."""
    asha: AshaConfig = AshaConfig()
    sampler_seed: int = Field(ge=0)
    space: dict[str, Choice | Range] = Field(min_length=1)
    first: list[dict[str, Value]]
    """Configurations tried before the sampler's own proposals."""
    cpus_per_trial: float = Field(gt=0)
    gpus_per_trial: float = Field(ge=0)
    max_failures: int = Field(ge=0)
    """How often a trial whose worker died, or that raised, goes on from its last checkpoint."""
    round_timeout_s: float = Field(default=0, ge=0)
    """Seconds after which a round counts as hanging, and its worker is ended; 0: never."""


class Search:
    """A resumable study (TPE, NeurIPS 2011): score up and bytes down, or score alone."""

    def __init__(self, path: Path, name: str, config: SweepConfig) -> None:
        """Open or create the study `name` in a sqlite file.

        A new study gets the configurations of `config.first`. In an old one, trials that were
        running when the last driver stopped are told as failed and queued again.

        Raises:
            ValueError: if the file cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self.space = {key: axis.distribution() for key, axis in config.space.items()}
        self.n_trials, self.objective = config.n_trials, config.objective
        self.exhausted = False
        self.running: dict[int, optuna.Trial] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                load_if_exists=True,
                directions=["maximize", "minimize"] if self._pareto else ["maximize"],
            )
        except Exception as error:  # sqlalchemy and alembic raise many kinds
            raise ValueError(f"{path}: not a usable study database: {error}") from None
        old = self.study.get_trials(deepcopy=False)
        seed = config.sampler_seed + len(old)  # an old study must not get its own proposals again
        self.tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        self.random = optuna.samplers.RandomSampler(seed=seed)
        if not old:
            for settings in config.first:
                self.study.enqueue_trial(dict(settings))
        for trial in old:
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)

    @property
    def _pareto(self) -> bool:
        return self.objective == "pareto"

    def ask(
        self, accept: Callable[[dict[str, Any]], str | None]
    ) -> tuple[int, dict[str, Any]] | None:
        """Return the next trial's number and settings, or None if all trials are given out.

        Args:
            accept: takes settings, returns why they are not feasible, or None. Proposals that
                are not feasible, or were tried before, are told to the study as failed.
        """
        for rejected in range(MAX_REJECTED):
            self.study.sampler = self.tpe if rejected < MAX_REJECTED_TPE else self.random
            if self.n_given_out >= self.n_trials:
                return None
            trial = self.study.ask(self.space)
            reason = accept(trial.params) or self._repeats(trial.number, trial.params)
            if reason is None:
                self.running[trial.number] = trial
                return trial.number, dict(trial.params)
            trial.set_user_attr("rejected", reason)
            self.study.tell(trial, state=TrialState.FAIL)
        self.exhausted = True
        return None

    def _repeats(self, number: int, settings: dict[str, Any]) -> str | None:
        for trial in self._counted():
            if trial.number != number and trial.params == settings:
                return f"same settings as trial {trial.number}"
        return None

    def _counted(self) -> list[FrozenTrial]:
        """Return running, finished and stopped trials, and those that failed while training."""
        counted = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in counted or "error" in trial.user_attrs
        ]

    @property
    def n_given_out(self) -> int:
        """Trials that run, finished, were stopped early or failed."""
        return len(self._counted())

    @property
    def n_failed(self) -> int:
        """Trials that failed while training."""
        return sum("error" in trial.user_attrs for trial in self._counted())

    def tell(self, number: int, record: TrialRecord) -> None:
        """Keep a finished trial."""
        trial = self._keep(number, record)
        values = [record.score, record.size_bytes] if self._pareto else [record.score]
        self.study.tell(trial, values)

    def tell_pruned(self, number: int, record: TrialRecord) -> None:
        """Keep a trial that was stopped early, as pruned."""
        self.study.tell(self._keep(number, record), state=TrialState.PRUNED)

    def _keep(self, number: int, record: TrialRecord) -> optuna.Trial:
        trial = self.running.pop(number)
        trial.set_user_attr("record", json.dumps(asdict(record)))
        if not self._pareto:  # Optuna takes no intermediate values with two objectives
            for step, measured in enumerate(record.history, start=1):
                trial.report(measured["score"], step)
        return trial

    def tell_failed(self, number: int, error: str) -> None:
        """Keep the fact that a trial failed, and why."""
        trial = self.running.pop(number)
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=TrialState.FAIL)

    def finished(self) -> list[TrialRecord]:
        """Return every finished trial, in order of number."""
        return self._records(TrialState.COMPLETE)

    def pruned(self) -> list[TrialRecord]:
        """Return every trial that was stopped early, in order of number, as far as it got."""
        return self._records(TrialState.PRUNED)

    def _records(self, state: TrialState) -> list[TrialRecord]:
        return [
            TrialRecord(**json.loads(trial.user_attrs["record"]))
            for trial in self.study.get_trials(deepcopy=False, states=(state,))
        ]
