"""The recipe of the embedded backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.core.config import Config


class PretrainConfig(Config):
    """The recipe of the embedded backbone."""

    start: Path | None
    """A folder with the weights to start from; null: random ones."""
    styles: list[str] = Field(min_length=1)
    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    """Share of the steps in which the learning rate falls to zero."""
    conditions: int = Field(ge=2)
    """How many conditions the pictures of a batch are shown under, plain being one of them."""
    image_size: int = Field(ge=16)
    patch_size: int = Field(ge=2)
    vision_width: int = Field(ge=32)
    vision_layers: int = Field(ge=1)
    text_width: int = Field(ge=32)
    text_layers: int = Field(ge=1)
    embed_dim: int = Field(ge=16)
    context_length: int = Field(ge=8)

    def open_clip_config(self) -> dict[str, Any]:
        """Return the `model_cfg` from which open_clip builds this model."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.vision_width,
                "layers": self.vision_layers,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_width // 32,
                "layers": self.text_layers,
            },
        }
