"""From settings, which are dotted names and values, to the configuration of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.core.settings import describe, flatten, nest
from pipeline.prompts.config import PromptConfig
from pipeline.training.config import TrainConfig

Settings = dict[str, Any]
"""Values by dotted name (`prompt.rank`, `train.lr`); `method` is the name of further settings."""


class Configuration(NamedTuple):
    """One prompt and how it trains."""

    prompt: PromptConfig
    train: TrainConfig


@dataclass(frozen=True)
class Resolver:
    """What settings are relative to: the sections `prompt`, `train`, `methods` and `method`.

    Settings win over those of their method, and these win over the sections.

    Attributes:
        prompt, train: the configuration without settings and without a method.
        methods: settings by name.
        method: that of settings which name none, or None.
    """

    prompt: PromptConfig
    train: TrainConfig
    methods: Mapping[str, Settings]
    method: str | None

    def expand(self, settings: Settings) -> Settings:
        """Return settings together with those of their method.

        Raises:
            ValueError: if there is no such method.
        """
        method = settings.get("method", self.method)
        if method is None:
            return settings
        if method not in self.methods:
            raise ValueError(
                f"method: got {method!r}; expected one of {sorted(self.methods)}, or null"
            )
        return {"method": method, **self.methods[method], **settings}

    def resolve(self, settings: Settings) -> Configuration:
        """Return the configuration that settings stand for.

        Raises:
            ValueError: if a name is unknown or a value is not allowed.
        """
        known = flatten({"prompt": self.prompt.model_dump(), "train": self.train.model_dump()})
        given = {key: value for key, value in self.expand(settings).items() if key != "method"}
        for name in given:
            if name not in known:
                raise ValueError(f"{name}: unknown key; expected method or one of {sorted(known)}")
        if "prompt.init" in given:
            raise ValueError("prompt.init: cannot be a setting: trials share its embeddings")
        sections = nest({**known, **given})
        try:
            return Configuration(
                PromptConfig(**sections["prompt"]), TrainConfig(**sections["train"])
            )
        except ValidationError as error:
            raise ValueError("; ".join(describe(error))) from None

    def problem(self, settings: Settings) -> str | None:
        """Return why no prompt has these settings, or None."""
        try:
            return self.resolve(settings).prompt.infeasible()
        except ValueError as error:
            return str(error)

    def is_method(self, settings: Settings, method: str) -> bool:
        """Return whether settings are a named method, at any learning rate."""
        if method not in self.methods:
            return False
        own = {name: value for name, value in self.methods[method].items() if name != "train.lr"}
        settings = self.expand(settings)
        return self.resolve(settings) == self.resolve({**settings, **own})

    def largest(self, name: str, space: Mapping[str, Sequence[Any]]) -> int:
        """Return the largest value of a setting in a space: values by the name of their axis."""
        if name in space:
            return max(int(value) for value in space[name])
        points = [{"method": method} for method in space["method"]] if "method" in space else [{}]
        return max(int(attrgetter(name)(self.resolve(point))) for point in points)
