"""The only reader of params.yaml: strict, complete, and clear about mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.clip.config import BackboneConfig
from pipeline.clip.pretraining.config import PretrainConfig
from pipeline.core.config import Config
from pipeline.core.errors import report_all
from pipeline.core.settings import describe
from pipeline.data.config import PrepareConfig
from pipeline.features.config import FeaturesConfig
from pipeline.prompts.config import PromptConfig
from pipeline.registry.config import RegisterConfig
from pipeline.sweep.config import SweepConfig, Value
from pipeline.tracking.config import TrackingConfig
from pipeline.training.config import (
    EvaluateConfig,
    InputsConfig,
    Protocol,
    ProtocolConfig,
    TrainConfig,
    check_protocol,
)
from pipeline.training.settings import Resolver

PARAMS = Path("params.yaml")
MAX_GRID = 20_000
"""Combinations of a grid, which are all checked before a sweep."""
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A task's name, which names its files and its DVC stages."""


class Params(Config):
    """All of params.yaml."""

    tasks: list[TaskName] = Field(min_length=1)
    """The data sets, each a task of its own; their names depend on `prepare.source`."""
    prepare: PrepareConfig
    pretrain: PretrainConfig
    backbone: BackboneConfig
    features: FeaturesConfig
    method: str | None
    """A name in `methods`, whose settings replace those of `prompt` and `train`; null for none."""
    methods: dict[str, dict[str, Value]]
    """Named points of the family, by dotted names."""
    prompt: PromptConfig
    train: TrainConfig
    sweep: SweepConfig
    presets: dict[str, dict[str, Any]]
    """Named searches: keys of `sweep` that replace those of that section."""
    protocol: Protocol
    """How the chosen configurations are tested: a name in `protocols`."""
    protocols: dict[Protocol, ProtocolConfig]
    evaluate: EvaluateConfig
    tracking: TrackingConfig
    register_: RegisterConfig = Field(alias="register")

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: list[str]) -> list[str]:
        """Refuse a task that is named twice: it would be prepared once and counted twice."""
        if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
            raise ValueError(f"got {twice} more than once; expected every task once")
        return tasks

    @property
    def resolver(self) -> Resolver:
        """What a trial's settings are relative to."""
        return Resolver(self.prompt, self.train, self.methods, self.method)

    @property
    def inputs(self) -> InputsConfig:
        """What the stages after `features` read."""
        return InputsConfig(self.backbone, self.features, self.prepare.root, self.prompt.init)

    @property
    def tested_by(self) -> ProtocolConfig:
        """The protocol that the chosen configurations are tested by."""
        return self.protocols[self.protocol]

    def task(self, arguments: Sequence[str]) -> str:
        """Return the task that a stage is called for: `python -m stages.prepare TASK`.

        Raises:
            ValueError: unless it is one of `tasks`.
        """
        if len(arguments) != 1 or arguments[0] not in self.tasks:
            raise ValueError(f"got {list(arguments)}; expected one task of {self.tasks}")
        return arguments[0]


def load_params(path: Path = PARAMS) -> Params:
    """Read and check the parameters, and with them every point of the sweep's space.

    Raises:
        ValueError: one message with every mistake: its place, what it got, what was expected.
    """
    try:
        raw = YAML(typ="safe").load(path.read_text())
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        report_all(f"{path}: {error.error_count()} problem(s)", describe(error))
        raise AssertionError from error
    report_all(f"{path}: no such configuration", method_problems(params))
    report_all(f"{path}: the sweep cannot run", sweep_problems(params))
    params = with_preset(params, path)
    if params.protocol not in params.protocols:
        raise ValueError(f"{path}: protocols.{params.protocol}: missing")
    check_protocol(params.protocol, params.tested_by, params.tasks)
    return params


def with_preset(params: Params, path: Path) -> Params:
    """Return the parameters with the sweep of the chosen preset, after a check of all presets.

    Raises:
        ValueError: if there is no such preset, or any is wrong.
    """
    problems, chosen, name = [], params, params.sweep.preset
    if name not in params.presets:
        problems = [f"sweep.preset: got {name!r}; expected one of {sorted(params.presets)}"]
    for preset, changes in params.presets.items():
        try:
            raw = {**params.sweep.model_dump(), **changes, "preset": preset}
            own = params.model_copy(update={"sweep": SweepConfig.model_validate(raw)})
        except ValidationError as error:
            wrong = describe(error)
        else:
            wrong = sweep_problems(own)
            chosen = own if preset == name else chosen
        if "preset" in changes:
            wrong.append("preset: not allowed within a preset")
        problems += [f"presets.{preset}.{problem.removeprefix('sweep.')}" for problem in wrong]
    report_all(f"{path}: a preset cannot run", problems)
    return chosen.model_copy(update={"sweep": whole_grid(chosen)})


def whole_grid(params: Params) -> SweepConfig:
    """Return the sweep with its number of trials; of a whole grid, that of the feasible ones."""
    if params.sweep.n_trials is not None:
        return params.sweep
    feasible = sum(params.resolver.problem(settings) is None for settings in params.sweep.grid())
    return params.sweep.model_copy(update={"n_trials": max(1, feasible)})


def method_problems(params: Params) -> list[str]:
    """Try every named method, and the one that is chosen."""
    problems = [
        f"evaluate.methods: got {name!r}; expected some of {sorted(params.methods)}"
        for name in params.evaluate.methods
        if name not in params.methods
    ]
    for name in [*params.methods, params.method]:
        if reason := params.resolver.problem({"method": name}):
            problems.append(f"methods.{name}: {reason}" if name in params.methods else reason)
    return list(dict.fromkeys(problems))


def sweep_problems(params: Params) -> list[str]:
    """Try every value of the space, so that no trial can fail on a wrong one."""
    sweep, resolver = params.sweep, params.resolver
    problems = [
        f"sweep.tasks: got {task!r}; expected some of {params.tasks}"
        for task in sweep.tasks
        if task not in params.tasks
    ]
    for name, axis in sweep.space.items():
        for value in axis.ends:
            try:
                resolver.resolve({name: value})
            except ValueError as error:
                problems.append(f"sweep.space: {error}")
    if sweep.sampler == "grid" and sweep.grid_size > MAX_GRID:
        problems.append(
            f"sweep.space: got {sweep.grid_size:,} combinations; expected at most {MAX_GRID:,}"
        )
    for settings in sweep.first:
        problems += [
            f"sweep.first: {name}: got {settings[name]!r}; expected a value of the axis"
            for name, axis in sweep.space.items()
            if name in settings and settings[name] not in axis
        ]
        if missing := sorted(set(sweep.space) ^ set(settings)):
            problems.append(f"sweep.first: {missing} must be axes of the space and set here")
        if reason := resolver.problem(settings):
            problems.append(f"sweep.first: {reason}")
    return problems
