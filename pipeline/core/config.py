"""The base of every section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["float32", "bfloat16"]


class Config(BaseModel):
    """An immutable, validated section of params.yaml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
