"""The settings of the registered model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.config import Config

Policy = Literal["better", "always", "never"]


class RegisterConfig(Config):
    """How the Pareto winners are registered."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the registered model: one for each benchmark."""
    promote: Policy
    """When a new champion takes the alias: if it is not worse, always, or never."""
    with_towers: bool
    """Whether the towers travel with every version, or are named; the embedded ones always do."""
