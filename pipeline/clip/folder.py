"""Models as folders that open_clip loads: built, written, copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_file

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.images import CONFIG, WEIGHTS


def build_clip(model_config: dict[str, Any], context_length: int) -> tuple[Any, Any]:
    """Build an open_clip CLIP with random weights, and its tokenizer."""
    model = open_clip.CLIP(
        model_config["embed_dim"], model_config["vision_cfg"], model_config["text_cfg"]
    )
    preprocess = {
        "size": model_config["vision_cfg"]["image_size"],
        "interpolation": "bicubic",
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return model, open_clip.SimpleTokenizer(context_length=context_length)


def save_clip(folder: Path, model: Any, model_config: dict[str, Any], half: bool = True) -> None:
    """Write a model as a folder that open_clip loads, weights in half precision or as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = model.visual.preprocess_cfg
    preprocess = {k: settings[k] for k in ("mean", "std", "interpolation")}
    preprocess["resize_mode"] = settings.get("resize_mode", "shortest")
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    weights = {
        name: (tensor.half() if half else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors 0.8 makes private files


def copy_towers(config: BackboneConfig, backbone: Backbone, folder: Path) -> Path:
    """Return a folder with the whole model: its own if it is one, else `folder`, written here.

    Raises:
        ValueError: if the model cannot be written so that it loads as the same.
    """
    if Path(config.name).is_dir():
        return Path(config.name)
    model_config = open_clip.get_model_config(config.name)
    if model_config is None:
        raise ValueError(
            f"register.with_towers: the towers of {config.name} cannot be copied; expected a "
            "folder or a name of open_clip's own; save the model as a folder and use that"
        )
    if any("QuickGELU" in type(module).__name__ for module in backbone.model.modules()):
        model_config["quick_gelu"] = True  # some weights need it, whatever the name says
    save_clip(folder, backbone.model, model_config, half=False)
    copied = load_backbone(BackboneConfig(name=str(folder), pretrained=None, device="cpu"))
    if copied.fingerprint != backbone.fingerprint:
        raise ValueError(f"register.with_towers: a copy of {config.name} is not the same model")
    return folder
