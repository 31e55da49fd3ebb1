"""The base of every section of params.yaml: frozen, strict, and without unknown keys."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """An immutable, validated section of params.yaml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
