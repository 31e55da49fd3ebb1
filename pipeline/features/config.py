"""The settings of how pictures are encoded."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.core.config import Config

MOST_WORKERS = 16
"""For `workers: auto`; every worker holds two batches of pictures."""


class FeaturesConfig(Config):
    """How images become features."""

    views: int = Field(ge=0)
    """Random crops cached for every training image, beside its plain view."""
    crop_scale: tuple[float, float]
    """Area of a random crop, relative to the image."""
    flip: bool
    """Whether crops are mirrored at random."""
    batch_size: int = Field(ge=1)
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    """Processes that decode images; `auto` is one per core, at most `MOST_WORKERS`."""
    seed: int = Field(ge=0)
    on_bad_image: Literal["strict", "lenient"] = "strict"
    """Whether images that cannot be read are one error, or are left out and listed."""

    @property
    def content(self) -> dict[str, Any]:
        """What changes features, as JSON; `workers` does not."""
        return self.model_dump(mode="json", exclude={"workers"})

    @property
    def n_workers(self) -> int:
        """How many processes decode images."""
        if self.workers == "auto":
            return min(os.cpu_count() or 1, MOST_WORKERS)
        return self.workers
