"""The file of a task's features."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.core.files import write_atomic
from pipeline.features.task import TaskFeatures


def save_features(path: Path, features: TaskFeatures) -> None:
    """Write the features of a task as safetensors with a JSON header."""
    names = [field.name for field in fields(features) if field.name != "pictures"]
    values = {name: getattr(features, name) for name in names}
    tensors = {k: v.contiguous() for k, v in values.items() if isinstance(v, torch.Tensor)}
    about = {k: v for k, v in values.items() if k not in tensors}
    # One key: safetensors 0.8 writes several in random order, and equal features would differ.
    metadata = {"loqua": json.dumps({**about, "content_hash": features.content_hash})}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_features(path: Path) -> TaskFeatures:
    """Read the features of a task, and check them against the hash of their content.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["loqua"])
            # A safetensors file has keys() but is no mapping: it cannot be iterated itself.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (as above)
        content_hash = about.pop("content_hash")
        about = {k: tuple(v) if isinstance(v, list) else v for k, v in about.items()}
        features = TaskFeatures(**about, **tensors)
        if features.content_hash != content_hash:
            raise ValueError("the content has another hash than when it was written")
        return features
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable feature file ({error}); remove it and run `dvc repro features`"
        ) from None
