"""Which backbone, and where it computes; read without open_clip, which takes seconds to load."""

from __future__ import annotations

import torch
from pydantic import Field

from pipeline.core.config import Config

BUDGET_BYTES = 2 * 2**30
"""What a pass of a tower may keep for its backward pass, unless `text_budget_gb` says otherwise."""


class BackboneConfig(Config):
    """Which open_clip model."""

    name: str = Field(min_length=1)
    """A model name (`ViT-B-16`), a hub name (`hf-hub:org/model`), or a local folder."""
    pretrained: str | None
    """Weights of a named model, for instance `openai`; null for a hub name or a folder."""
    device: str = "auto"
    """`auto` is the first GPU, or the CPU."""
    text_budget_gb: float = Field(default=BUDGET_BYTES / 2**30, gt=0)
    """What a pass of the text tower may keep for the backward pass; larger ones run in parts."""

    def torch_device(self) -> torch.device:
        """Return the device to compute on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def on_cpu(self) -> BackboneConfig:
        """Return the same model on the CPU: for drivers, whose workers choose their own device."""
        return self.model_copy(update={"device": "cpu"})
