"""The image side of the frozen backbone, which is all that cached features depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip.config import BackboneConfig
from pipeline.clip.fingerprint import fingerprint

Transform = Callable[[Image.Image], Tensor]
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


@dataclass(frozen=True)
class ImageEncoder:
    """The image side of a frozen vision-language model.

    Attributes:
        model: open_clip's, in evaluation mode, without gradients.
        transform: the model's own preprocessing of one picture, to `[3, H, W]`.
        fingerprint: SHA-256 of all weights and of what layers do with them; see `fingerprint`.
        device: of the weights.
    """

    model: Any
    transform: Transform
    fingerprint: str
    device: torch.device

    @torch.inference_mode()
    def encode_images(self, pictures_N3HW: Tensor) -> Tensor:
        """Return unit features `[N, E]`, float32, on the CPU."""
        features_NE = self.model.encode_image(pictures_N3HW.to(self.device))
        return F.normalize(features_NE.float(), dim=-1).cpu()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, mean, standard deviation and interpolation of `transform`."""
        preprocessing: dict[str, Any] = self.model.visual.preprocess_cfg
        return preprocessing


def load_model(config: BackboneConfig) -> tuple[Any, Any]:
    """Load a model of open_clip with its weights, frozen, in float32; and its tokenizer.

    Raises:
        ValueError: if the model or its weights are not there.
    """
    folder = Path(config.name)
    is_folder = (folder / CONFIG).is_file()
    if is_folder and config.pretrained:
        raise ValueError(
            f"backbone.pretrained: {config.pretrained!r} does not apply to the folder "
            f"{folder}, which has its own weights; expected null"
        )
    if (folder.is_dir() or "/" in config.name.removeprefix("hf-hub:")) and not (
        is_folder or config.name.startswith("hf-hub:")
    ):
        raise ValueError(f"backbone.name: {config.name}: no folder with {CONFIG} and {WEIGHTS}")
    name = f"local-dir:{folder.resolve()}" if is_folder else config.name
    try:
        model = open_clip.create_model(
            name, config.pretrained, device=config.torch_device(), require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip and the hub raise many kinds
        raise ValueError(
            f"backbone.name: {config.name} (pretrained: {config.pretrained}) cannot be loaded: "
            f"{error}; expected an open_clip model with its weights, hf-hub:..., or a folder"
        ) from None
    return model.eval().requires_grad_(False), tokenizer


def wrap_images(model: Any, device: torch.device) -> ImageEncoder:
    """Return the image side of an open_clip model."""
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    return ImageEncoder(model, preprocess, fingerprint(model), device)


def load_image_encoder(config: BackboneConfig) -> ImageEncoder:
    """Load a model for its images alone.

    Raises:
        ValueError: if the model or its weights are not there.
    """
    return wrap_images(load_model(config)[0], config.torch_device())
