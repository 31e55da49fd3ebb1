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
from pipeline.data.config import PrepareConfig
from pipeline.features.config import FeaturesConfig
from pipeline.prompts.config import PromptConfig
from pipeline.registry.config import RegisterConfig
from pipeline.sweep.config import SweepConfig, Value
from pipeline.tracking.config import TrackingConfig
from pipeline.training.config import (
    EvaluateConfig,
    Protocol,
    ProtocolConfig,
    TrainConfig,
    check_protocol,
)

PARAMS = Path("params.yaml")
MAX_GRID = 20_000
"""Combinations of a grid, which are all looked at before a sweep."""
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A task's name, which names its files and its DVC stages."""


class Params(Config):
    """All of params.yaml."""

    tasks: list[TaskName] = Field(min_length=1)
    """The data sets, each a task of its own; what they are called is up to `prepare.source`."""
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
            raise ValueError(f"found {twice} more than once; allowed is once")
        return tasks


def chosen_task(params: Params, arguments: Sequence[str]) -> str:
    """Return the task that a stage was called for: `python -m stages.prepare TASK`.

    Raises:
        ValueError: unless it is one task of `params.tasks`.
    """
    if len(arguments) != 1 or arguments[0] not in params.tasks:
        raise ValueError(f"found {list(arguments)}; allowed is one task of {params.tasks}")
    return arguments[0]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested dicts into one with dotted names."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def load_params(path: Path = PARAMS) -> Params:
    """Read and check the parameters, and every point of the sweep's space with them.

    Raises:
        ValueError: one message with every mistake: its place, what was found, what is allowed.
    """
    try:
        raw = YAML(typ="safe").load(path.read_text())
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path}: not readable: {error}") from None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        problems = [describe(problem) for problem in error.errors()]
        report_all(f"{path}: {len(problems)} problem(s)", problems)
        raise AssertionError from error
    report_all(f"{path}: no such configuration", method_problems(params))
    report_all(f"{path}: the sweep cannot run", sweep_problems(params))
    params = with_preset(params, path)
    if params.protocol not in params.protocols:
        raise ValueError(f"{path}: protocols.{params.protocol}: missing")
    check_protocol(params.protocol, params.protocols[params.protocol], params.tasks)
    return params


def with_preset(params: Params, path: Path) -> Params:
    """Return the parameters with the sweep of the chosen preset, after a look at all of them.

    Raises:
        ValueError: if there is no such preset, or any is wrong.
    """
    problems, chosen, name = [], params, params.sweep.preset
    if name not in params.presets:
        problems = [f"sweep.preset: found {name!r}; allowed are {sorted(params.presets)}"]
    for preset, changes in params.presets.items():
        try:
            raw = {**params.sweep.model_dump(), **changes, "preset": preset}
            sweep = SweepConfig.model_validate(raw)
        except ValidationError as error:
            found = [describe(problem) for problem in error.errors()]
        else:
            own = params.model_copy(update={"sweep": sweep})
            found = sweep_problems(own)
            chosen = own if preset == name else chosen
        if "preset" in changes:
            found.append("preset: not allowed within a preset")
        problems += [f"presets.{preset}.{problem.removeprefix('sweep.')}" for problem in found]
    report_all(f"{path}: a preset cannot run", problems)
    return chosen.model_copy(update={"sweep": whole_grid(chosen)})


def whole_grid(params: Params) -> SweepConfig:
    """Return the sweep with the number of its trials; of a grid, that of all feasible ones."""
    if params.sweep.n_trials is not None:
        return params.sweep
    feasible = (
        apply_settings(params, settings)[0].infeasible() is None for settings in params.sweep.grid()
    )
    return params.sweep.model_copy(update={"n_trials": max(1, sum(feasible))})


def describe(problem: Any) -> str:
    """Turn one of pydantic's problems into `place: found ..., allowed ...`."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # a check of several keys together
        return f"{place}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if problem["type"] == "missing":
        return f"{place}: missing"
    return f"{place}: found {problem['input']!r}; {problem['msg'].lower()}"


def expand(params: Params, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of their method beneath; what is set beside a method wins.

    Raises:
        ValueError: if there is no such method.
    """
    method = settings.get("method", params.method)
    if method is None:
        return settings
    if method not in params.methods:
        raise ValueError(f"method: found {method!r}; allowed are {sorted(params.methods)}, or null")
    return {"method": method, **params.methods[method], **settings}


def is_method(params: Params, settings: dict[str, Any], method: str) -> bool:
    """Return whether settings are a named method, at whatever learning rate."""
    if method not in params.methods:
        return False
    own = {name: value for name, value in params.methods[method].items() if name != "train.lr"}
    settings = expand(params, settings)
    return apply_settings(params, settings) == apply_settings(params, {**settings, **own})


def apply_settings(params: Params, settings: dict[str, Any]) -> tuple[PromptConfig, TrainConfig]:
    """Return the prompt and training of one configuration, given by dotted names or a method.

    Raises:
        ValueError: if a name is unknown or a value is not allowed.
    """
    sections: dict[str, Any] = {
        "prompt": params.prompt.model_dump(),
        "train": params.train.model_dump(),
    }
    allowed = flatten(sections)
    for name, value in expand(params, settings).items():
        if name == "method":
            continue
        if name not in allowed:
            raise ValueError(f"{name}: unknown key; allowed are method and {sorted(allowed)}")
        *path, key = name.split(".")
        section = sections
        for part in path:
            section = section[part]
        section[key] = value
    try:
        return PromptConfig(**sections["prompt"]), TrainConfig(**sections["train"])
    except ValidationError as error:
        raise ValueError("; ".join(describe(problem) for problem in error.errors())) from None


def deepest(params: Params) -> int:
    """Return the largest `prompt.depth` of any configuration of the sweep."""
    tried = [
        {},
        *({name: value} for name, axis in params.sweep.space.items() for value in axis.ends),
    ]
    return max(apply_settings(params, settings)[0].depth for settings in tried)


def method_problems(params: Params) -> list[str]:
    """Try every named method, and the one that is chosen."""
    problems = [
        f"evaluate.methods: found {name!r}; allowed are {sorted(params.methods)}"
        for name in params.evaluate.methods
        if name not in params.methods
    ]
    for name in [*params.methods, params.method]:
        try:
            reason = apply_settings(params, {"method": name})[0].infeasible()
        except ValueError as error:
            reason = str(error)
        if reason:
            problems.append(f"methods.{name}: {reason}" if name in params.methods else reason)
    return list(dict.fromkeys(problems))


def sweep_problems(params: Params) -> list[str]:
    """Try every value of the space, so that no trial can fail on a wrong one."""
    problems = [
        f"sweep.tasks: {task!r} is not prepared; allowed are {params.tasks}"
        for task in params.sweep.tasks
        if task not in params.tasks
    ]
    for name, axis in params.sweep.space.items():
        for value in axis.ends:
            try:
                apply_settings(params, {name: value})
            except ValueError as error:
                problems.append(f"sweep.space: {error}")
    if params.sweep.sampler == "grid" and params.sweep.grid_size > MAX_GRID:
        found = params.sweep.grid_size
        problems.append(f"sweep.space: found {found:,} combinations; allowed are {MAX_GRID:,}")
    for settings in params.sweep.first:
        problems += [
            f"sweep.first: {name}: found {settings[name]!r}, which is not on the axis"
            for name, axis in params.sweep.space.items()
            if name in settings and settings[name] not in axis
        ]
        missing = sorted(set(params.sweep.space) ^ set(settings))
        if missing:
            problems.append(f"sweep.first: {missing} must be axes of the space and set here")
        try:
            reason = apply_settings(params, dict(settings))[0].infeasible()
        except ValueError as error:
            reason = str(error)
        if reason:
            problems.append(f"sweep.first: {reason}")
    return problems
