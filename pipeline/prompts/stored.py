"""A learned prompt as it is stored: bit-packed codes and half-precision codebooks, or values.

Shapes: n scalars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """One factor of a prompt, exactly as stored.

    Attributes:
        shape: of the factor.
        bits: per scalar; 16 means plain half-precision values.
        payload: uint8 codes packed to `ceil(n bits / 8)` bytes, or the values, float16.
        codebook: float16 `[G, C]`, each for an equal run of the first axis: one for the whole
            factor (G = 1), or up to one per row (G = shape[0]); `[0, 0]` at 16 bits.
    """

    shape: tuple[int, ...]
    bits: int
    payload: Tensor
    codebook: Tensor

    @classmethod
    def from_codes(cls, codes: Tensor, codebook_GC: Tensor, bits: int) -> StoredTensor:
        """Pack codes `[rows, ...]` below 2^bits, most significant bit first; G codebooks.

        Raises:
            ValueError: if a centroid does not fit half precision.
        """
        assert codebook_GC.shape[1:] == (2**bits,), "a codebook has 2^bits centroids"
        assert codes.shape[0] % len(codebook_GC) == 0, "codebooks share the rows equally"
        flat = codes.flatten().to("cpu", torch.uint8).numpy()
        planes = np.unpackbits(flat[:, None], axis=1)[:, 8 - bits :]
        payload = torch.from_numpy(np.packbits(planes.flatten()))
        return cls(tuple(codes.shape), bits, payload, to_half(codebook_GC))

    @classmethod
    def from_values(cls, values: Tensor) -> StoredTensor:
        """Store values of any shape in half precision.

        Raises:
            ValueError: if a value does not fit it.
        """
        empty = torch.empty(0, 0, dtype=torch.float16)
        return cls(tuple(values.shape), 16, to_half(values), empty)

    def values(self) -> Tensor:
        """Return the factor in its shape, float32."""
        if self.bits == 16:
            return self.payload.float().view(self.shape)
        count = math.prod(self.shape)
        planes = np.unpackbits(self.payload.numpy())[: count * self.bits].reshape(count, self.bits)
        padded = np.pad(planes, ((0, 0), (8 - self.bits, 0)))
        codes = torch.from_numpy(np.packbits(padded, axis=1)[:, 0].astype(np.int64))
        codes_Gn = codes.view(len(self.codebook), -1)
        return self.codebook.float().gather(1, codes_Gn).view(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that rebuild the factor."""
        return self.payload.nbytes + self.codebook.nbytes


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as it is stored, evaluated, registered and served.

    Attributes:
        init: words whose embeddings the update is added to (they cost no learned state).
        n_ctx: M.
        tensors: the factors, as `check_factors` allows them.
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


def to_half(values: Tensor) -> Tensor:
    """Round to half precision, same shape, on the CPU.

    Raises:
        ValueError: if a value is not finite there.
    """
    half = values.detach().to("cpu", torch.float16).contiguous()
    wrong = ~half.isfinite()
    if wrong.any():
        raise ValueError(
            f"got a prompt value of {float(values.detach().cpu()[wrong][0]):g}; expected a half-"
            f"precision number, up to {torch.finfo(torch.float16).max:g}"
        )
    return half


def check_factors(n_ctx: int, tensors: dict[str, StoredTensor]) -> None:
    """Refuse factors that make no context of M tokens.

    Expected are

        none                                        the template's words: zero-shot CLIP
        context_MD                                  CoOp, QCoOp
        left_MR, right_RD                           low rank
        context_MD, deep_JMD, coupling_JWD, bias_JW deep and coupled to the image tower: MaPLe,
                                                    arXiv 2210.03117

    where `coupling` and `bias` have J layers and `deep_JMD` has J - 1; with J = 1 there is none.

    Raises:
        ValueError: naming the shapes.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    allowed: dict[str, tuple[int, ...]] = {}
    match shapes:
        case {"coupling_JWD": (layers, out, width)}:
            allowed = {
                "context_MD": (n_ctx, width),
                "coupling_JWD": (layers, out, width),
                "bias_JW": (layers, out),
            }
            if layers > 1:
                allowed["deep_JMD"] = (layers - 1, n_ctx, width)
        case {"right_RD": (rank, width)} if rank <= min(n_ctx, width):
            allowed = {"left_MR": (n_ctx, rank), "right_RD": (rank, width)}
        case {"context_MD": (_, width)}:
            allowed = {"context_MD": (n_ctx, width)}
    if shapes != allowed:
        raise ValueError(f"got factors {shapes}, which make no context of {n_ctx} tokens")
