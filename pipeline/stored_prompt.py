"""What is kept of a learned prompt: bit-packed codes and half-precision codebooks.

Shapes: n scalars, C = 2^bits centroids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "loqua-prompt-1"


@dataclass(frozen=True)
class StoredTensor:
    """One factor of a prompt, exactly as stored.

    Attributes:
        shape: of the factor.
        bits: per scalar; 16 means plain half-precision values.
        payload: uint8 codes packed to `ceil(n bits / 8)` bytes, or the values, float16.
        codebook: float16 `[C]`; empty at 16 bits.
    """

    shape: tuple[int, ...]
    bits: int
    payload: Tensor
    codebook: Tensor

    @classmethod
    def from_codes(cls, codes: Tensor, codebook_C: Tensor, bits: int) -> StoredTensor:
        """Pack codes below 2^bits, most significant bit first."""
        flat = codes.flatten().to("cpu", torch.uint8).numpy()
        planes = np.unpackbits(flat[:, None], axis=1)[:, 8 - bits :]
        payload = torch.from_numpy(np.packbits(planes.flatten()))
        return cls(tuple(codes.shape), bits, payload, codebook_C.to("cpu", torch.float16))

    @classmethod
    def from_values(cls, values: Tensor) -> StoredTensor:
        """Keep the values in half precision."""
        half = values.detach().to("cpu", torch.float16).contiguous()
        return cls(tuple(values.shape), 16, half, torch.empty(0, dtype=torch.float16))

    def values(self) -> Tensor:
        """Return the factor, float32."""
        if self.bits == 16:
            return self.payload.float().view(self.shape)
        count = int(np.prod(self.shape))
        planes = np.unpackbits(self.payload.numpy())[: count * self.bits].reshape(count, self.bits)
        padded = np.pad(planes, ((0, 0), (8 - self.bits, 0)))
        codes = torch.from_numpy(np.packbits(padded, axis=1)[:, 0].astype(np.int64))
        grouped = codes.view(len(self.codebook), -1)
        return self.codebook.float().gather(1, grouped).view(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that must be kept to rebuild the factor."""
        return self.payload.nbytes + self.codebook.nbytes


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as it is stored, evaluated, registered and served.

    Attributes:
        init: words whose embeddings the update is added to (they cost no learned state).
        n_ctx: M.
        tensors: `context_MD`, or `left_MR` and `right_RD`.
    """

    init: str
    n_ctx: int
    tensors: dict[str, StoredTensor]

    @property
    def size_bytes(self) -> int:
        """Bytes of learned state: codes, codebooks and values."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def values(self) -> dict[str, Tensor]:
        """Return the factors, float32."""
        return {name: tensor.values() for name, tensor in self.tensors.items()}


def save_prompt(path: Path, prompt: StoredPrompt, about: dict[str, Any]) -> None:
    """Write a prompt and its description (any JSON) to a safetensors file."""
    tensors, shapes = {}, {}
    for name, tensor in prompt.tensors.items():
        tensors[f"{name}.payload"] = tensor.payload
        tensors[f"{name}.codebook"] = tensor.codebook
        shapes[name] = {"shape": list(tensor.shape), "bits": tensor.bits}
    header = {
        "format": FORMAT,
        "init": prompt.init,
        "n_ctx": prompt.n_ctx,
        "tensors": shapes,
        "about": about,
    }
    save_file(tensors, path, metadata={"prompt": json.dumps(header)})


def load_prompt(path: Path) -> tuple[StoredPrompt, dict[str, Any]]:
    """Read a prompt and its description; the values are bit for bit those that were saved.

    Raises:
        ValueError: if the file is missing, damaged, or not a prompt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["prompt"])
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r}, allowed: {FORMAT!r}")
            tensors = {}
            for name, entry in header["tensors"].items():
                payload = file.get_tensor(f"{name}.payload")
                codebook = file.get_tensor(f"{name}.codebook")
                tensors[name] = StoredTensor(
                    tuple(entry["shape"]), entry["bits"], payload, codebook
                )
                tensors[name].values()
            check_factors(header["n_ctx"], tensors)
            return StoredPrompt(header["init"], header["n_ctx"], tensors), header["about"]
    except (
        OSError,
        AttributeError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        IndexError,
    ) as error:
        raise ValueError(f"{path}: not a readable prompt file: {error}") from None


def check_factors(n_ctx: int, tensors: dict[str, StoredTensor]) -> None:
    """Refuse factors that make no context of M tokens.

    Raises:
        ValueError: naming the shapes.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    match shapes:
        case {"context_MD": (m, _)} if len(shapes) == 1:
            fits = m == n_ctx
        case {"left_MR": (m, rank), "right_RD": (r, _)} if len(shapes) == 2:
            fits = m == n_ctx and rank == r
        case {}:
            fits = not shapes or "coupling_JWD" in shapes
        case _:
            fits = False
    if not fits:
        raise ValueError(f"factors {shapes} make no context of {n_ctx} tokens")
