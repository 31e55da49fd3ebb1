"""The towers and class names that the measurements run on."""

from __future__ import annotations

import logging
from typing import Any

import open_clip
import torch

from pipeline.clip.backbone import caption_frame
from pipeline.clip.text.tower import TextTower

N_STEPS_COOP = 5000
"""CoOp's schedule: 16 shots of 50 classes, 200 passes in batches of 32."""


def vit_b_16() -> tuple[Any, TextTower]:
    """Return ViT-B/16 with random weights (its speed does not depend on them), frozen."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    return model, TextTower(model, caption_frame(open_clip.get_tokenizer("ViT-B-16")))


def imagenet_names(count: int) -> list[list[int]]:
    """Return the token ids of the first names of ImageNet, full stop included."""
    encode = open_clip.get_tokenizer("ViT-B-16").encode
    return [encode(f"{name}.") for name in open_clip.IMAGENET_CLASSNAMES[:count]]
