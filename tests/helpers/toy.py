"""Builders of what tests are made of: a tiny random CLIP, tiny features, tiny drawings."""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F

from pipeline.clip.text.layout import Frame
from pipeline.data.manifest import Manifest
from pipeline.features.config import FeaturesConfig
from pipeline.features.task import TaskFeatures
from pipeline.training.config import TrainConfig

EPS = torch.finfo(torch.float32).eps
CONTEXT_LENGTH = 24
CLIP_FRAME = Frame(sos=(49406,), eos=(49407,), pad=0)
CLASS_NAMES = (
    "cat",
    "red apple",
    "ice cream",
    "hot air balloon",
    "dog",
    "flag",
    "tree",
    "umbrella",
)
STYLES = ("flat", "round", "far")
COLOURS = ("red", "green", "blue", "gold", "black", "purple")


def clip_config(**text: Any) -> dict[str, Any]:
    """The `model_cfg` of the tiny CLIP."""
    return {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 16,
            "width": 64,
            "layers": 2,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 2,
            **text,
        },
    }


BOOST = {"full": 2.0, "low_rank": 1.5, "quantized": 1.0}


def train_config(n_steps: int = 12, **changed: Any) -> TrainConfig:
    """A short training: `fast` takes `n_steps` steps, CoOp's schedule 6 passes in batches of 5."""
    plain: dict[str, Any] = {
        "schedule": "fast",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "precision": "float32",
        "rounds": 3,
        "fast": {
            "stride": 10**6,
            "boost": BOOST,
            "min_steps": n_steps,
            "warmup_steps": 2,
            "decay": 0.5,
        },
        "coop": {"epochs": 6, "batch_size": 5},
    }
    return TrainConfig(**{**plain, **changed})


def features_config(**changed: Any) -> FeaturesConfig:
    """How the tiny pictures are encoded."""
    plain: dict[str, Any] = {
        "views": 2,
        "crop_scale": (0.5, 1.0),
        "flip": False,
        "batch_size": 16,
        "workers": 0,
        "seed": 1,
    }
    return FeaturesConfig(**{**plain, **changed})


def with_images(manifest: Manifest, images: list[dict[str, Any]]) -> Manifest:
    """A manifest with other images in its rows."""
    return replace(manifest, rows=manifest.rows.assign(image=images))


def toy_features() -> TaskFeatures:
    """Random unit features of eight classes, scattered around one direction per class.

    Rows come in an order in which classes of both halves alternate.
    """
    generator = torch.Generator().manual_seed(2)
    rows = [
        (label, split, domain)
        for split, domain, count in ((0, 0, 3), (0, 1, 2), (1, 0, 2), (2, 0, 2), (2, 2, 2))
        for _ in range(count)
        for label in (5, 0, 7, 2, 1, 6, 3, 4)
    ]
    label_N, split_N, domain_N = torch.tensor(rows).T.contiguous()
    centre_KE = torch.randn(len(CLASS_NAMES), 32, generator=generator)
    noise_NE = torch.randn(len(rows), 32, generator=generator)
    features_NE = F.normalize(centre_KE[label_N] + noise_NE, dim=-1)
    train_NE = features_NE[split_N == 0]
    other_NE = F.normalize(
        train_NE + 0.1 * torch.randn(train_NE.shape, generator=generator), dim=-1
    )
    return TaskFeatures(
        name="toy",
        template="a photo of a {}.",
        class_names=CLASS_NAMES,
        domains=("flat", "round", "far"),
        features_NE=features_NE,
        row_N=torch.arange(len(rows)),
        label_N=label_N.contiguous(),
        split_N=split_N.contiguous(),
        domain_N=domain_N.contiguous(),
        views_NVE=torch.stack([train_NE, other_NE], dim=1),
        train_label_T=label_N[split_N == 0],
        train_index_T=torch.arange(len(train_NE)),
        fingerprint="f" * 64,
        data_hash="d" * 64,
    )


def drawing(style: int, concept: int) -> str:
    """A shape whose outline tells the style and whose colour tells the concept."""
    shape = (
        f'<rect x="{4 + style}" y="6" width="22" height="18" fill="{COLOURS[concept]}"/>',
        f'<circle cx="16" cy="16" r="{11 + concept % 3}" fill="{COLOURS[concept]}"/>',
        f'<path d="M4 28L16 {4 + concept}L28 28z" fill="{COLOURS[concept]}"/>',
    )[style]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{shape}</svg>'


def toy_drawings() -> pd.DataFrame:
    """Six concepts in three styles; the sixth lacks a style."""
    return pd.DataFrame(
        [
            {
                "style": style,
                "codepoint": f"{concept:04X}",
                "name": f"{COLOURS[concept]} thing",
                "group": "things",
                "tags": ["shape", COLOURS[concept]],
                "svg": drawing(index, concept),
            }
            for concept in range(6)
            for index, style in enumerate(STYLES)
            if (concept, style) != (5, "far")
        ]
    )
