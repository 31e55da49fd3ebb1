"""The section `sweep` of params.yaml: axes, their values, and how they are searched."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, RootModel, model_validator

from pipeline.core.config import Config
from pipeline.training.config import Validation

Value = bool | int | float | str


class Choice(RootModel[Annotated[list[Value], Field(min_length=1)]]):
    """An axis with a few values."""

    @property
    def ends(self) -> list[Value]:
        """All values, for a check before the sweep."""
        return self.root

    @property
    def words(self) -> str:
        """The axis as text."""
        return ", ".join(str(value) for value in self.root)

    @property
    def points(self) -> list[Value]:
        """The values on a grid."""
        return self.root

    def __contains__(self, value: Value) -> bool:
        """Whether it is one of the values."""
        return value in self.root

    def draw(self, rng: random.Random) -> Value:
        """Draw a value."""
        return rng.choice(self.root)


class Range(Config):
    """An axis with all values from `low` to `high`; on a grid, `steps` of them."""

    low: float
    high: float
    log: bool = False
    steps: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log: true")
        return self

    @property
    def ends(self) -> list[Value]:
        """Both ends, for a check before the sweep."""
        return [self.low, self.high]

    @property
    def words(self) -> str:
        """The axis as text."""
        steps = f", {self.steps} steps" if self.steps else ""
        return f"{self.low:g} to {self.high:g}{', log scale' if self.log else ''}{steps}"

    @property
    def points(self) -> list[Value]:
        """The values on a grid: equal steps, or equal factors if `log`; both ends are exact."""
        assert self.steps, "a grid is checked before it is used"
        shares = [step / (self.steps - 1) for step in range(1, self.steps - 1)]
        if self.log:
            between = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            between = [self.low + (self.high - self.low) * share for share in shares]
        return [self.low, *between, self.high]

    def __contains__(self, value: Value) -> bool:
        """Whether it is between both ends."""
        return not isinstance(value, str) and self.low <= value <= self.high

    def draw(self, rng: random.Random) -> Value:
        """Draw a value, from the logarithms if `log`."""
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


class AshaConfig(Config):
    """Successive halving with early stopping (ASHA, arXiv 1810.05934), over a trial's rounds."""

    grace_rounds: int = Field(default=1, ge=1)
    """Rounds that every trial gets."""
    reduction_factor: float = Field(default=3, gt=1)
    """Of the trials that reach a rung, one in so many continues."""


class SweepConfig(Config):
    """What is searched, on what, and with which resources."""

    preset: str = "own"
    """A name in `presets`, whose keys replace those of this section."""
    tasks: list[str] = Field(min_length=1)
    shots: int = Field(ge=1)
    seeds: list[int] = Field(min_length=1)
    validation: Validation = "all"
    """All validation images, or those that the public rule draws; see `validation_rows`."""
    n_trials: int | None = Field(ge=1)
    """null: the whole grid, with `sampler: grid` only."""
    objective: Literal["pareto", "score"] = "pareto"
    """Score and bytes, with every trial trained to its end; or score alone, where trials that fall
    behind are stopped early (`asha`)."""
    asha: AshaConfig = AshaConfig()
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Learn from results; draw at random; or try every combination once, in order."""
    sampler_seed: int = Field(ge=0)
    lag: int = Field(default=8, ge=0)
    """What is decided for trial k uses the results of the trials up to k - lag, so the same sweep
    gives the same trials with any number of workers; at most `lag` of them run at once, where
    results decide. 0: results are used as they come, and no worker waits."""
    space: dict[str, Choice | Range] = Field(min_length=1)
    first: list[dict[str, Value]]
    """Settings that are tried before the sampler's own proposals."""
    cpus_per_trial: float = Field(gt=0)
    gpus_per_trial: float = Field(ge=0)
    max_failures: int = Field(ge=0)
    """How often in a row a round may fail, by an error or with its worker or node, before its trial
    fails; the trial resumes from its last round."""
    round_timeout_s: float = Field(default=0, ge=0)
    """Seconds after which a round counts as hung, and its worker is ended; 0: never."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        """Refuse a grid with infinite axes, and a search without a grid that never ends."""
        grid, problems = self.sampler == "grid", []
        if self.n_trials is None and not grid:
            problems.append("n_trials: got null; expected a number, except with sampler: grid")
        for name, axis in self.space.items():
            if isinstance(axis, Range) and bool(axis.steps) != grid:
                rule = "a range needs steps in" if grid else "steps are for"
                problems.append(f"space.{name}: {rule} a grid; the sampler is {self.sampler}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def grid_size(self) -> int:
        """How many combinations the grid has, feasible or not."""
        return math.prod(len(axis.points) for axis in self.space.values())

    @property
    def limit(self) -> int:
        """The largest number of trials."""
        return self.n_trials or self.grid_size

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every combination once; the last axis changes first."""
        axes = [axis.points for axis in self.space.values()]
        for values in itertools.product(*axes):
            yield dict(zip(self.space, values, strict=True))
