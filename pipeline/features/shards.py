"""Features on disk while a task is encoded, so that an interruption costs one shard at most.

A shard is a file of keys and features. It appears complete or not at all, and is found by its keys
alone, whichever run wrote it for whichever list of pictures.

Shapes: X pictures, n of them in a shard.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core.files import write_atomic
from pipeline.core.hashes import bytes_hash

SIZE = 4096
"""Pictures of a shard."""


class Encoded:
    """Features that arrive piece by piece.

    Attributes:
        features_XE: zeros where nothing arrived; `[X, 0]` before the first piece.
        done_X: bool, where something arrived.
    """

    def __init__(self, count: int) -> None:
        """Make room for X features."""
        self.features_XE = torch.zeros(count, 0)
        self.done_X = np.zeros(count, dtype=bool)

    def put(self, at_n: np.ndarray, features_nE: Tensor) -> None:
        """Store the features of some positions."""
        if not self.features_XE.shape[1]:
            self.features_XE = torch.zeros(len(self.done_X), features_nE.shape[1])
        self.features_XE[torch.from_numpy(at_n)] = features_nE
        self.done_X[at_n] = True


def save_shard(folder: Path, key_n: np.ndarray, features_nE: Tensor) -> None:
    """Write a shard, unless it is empty; its name follows from its keys."""
    if not len(key_n):
        return
    tensors = {"key_n": torch.from_numpy(key_n), "features_nE": features_nE.contiguous()}
    path = folder / f"{bytes_hash(key_n.tobytes())[:16]}.safetensors"
    write_atomic(path, lambda temporary: save_file(tensors, temporary))


def restore(folder: Path, key_X: np.ndarray, encoded: Encoded) -> None:
    """Load the features in the shards of a folder; a damaged shard is ignored."""
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            tensors = load_file(path)
            key_n, features_nE = tensors["key_n"].numpy(), tensors["features_nE"]
        except (OSError, SafetensorError, KeyError):
            continue
        order_n = key_n.argsort()
        place_X = np.searchsorted(key_n, key_X, sorter=order_n).clip(max=len(key_n) - 1)
        index_X = order_n[place_X]
        at_x = np.flatnonzero(key_n[index_X] == key_X)
        if len(at_x):
            encoded.put(at_x, features_nE[torch.from_numpy(index_X[at_x])])
