"""The file of a prompt: its codes and codebooks behind a small header.

    magic        8 bytes
    version      uint16
    header size  uint32
    header       UTF-8 JSON (`header`)
    payload      per tensor: packed codes and half-precision codebooks, or half-precision values
    checksum     SHA-256 of everything before it

Numbers are little endian. A file is data alone: whatever its bytes, reading it gives a prompt or a
`ValueError`, and takes memory in proportion to the file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.prompts.header import Entry, Header, read_header
from pipeline.prompts.stored import StoredPrompt, StoredTensor, check_factors

MAGIC = b"\x89LOQUA\r\n"
VERSION = 1
FRAME = struct.Struct("<8sHI")
DIGEST_BYTES = 32
HALF, CODES = np.dtype("<f2"), np.dtype(np.uint8)


class PackedSize(NamedTuple):
    """The parts of a prompt's file."""

    payload_bytes: int
    """Of what rebuilds the prompt: `StoredPrompt.size_bytes`."""
    header_bytes: int
    """Of the rest: description and checksum."""


def pack_prompt(prompt: StoredPrompt, fingerprint: str, about: Any) -> bytes:
    """Return a prompt as a file's bytes.

    Args:
        prompt: to write.
        fingerprint: of the prompt's backbone.
        about: any JSON value.

    Raises:
        ValueError: if `about` holds a number that is not finite.
    """
    entries = [
        Entry(name=name, shape=list(t.shape), bits=t.bits, codebooks=len(t.codebook))
        for name, t in prompt.tensors.items()
    ]
    header = Header(
        init=prompt.init, n_ctx=prompt.n_ctx, tensors=entries, fingerprint=fingerprint, about=about
    ).to_json()
    parts = [FRAME.pack(MAGIC, VERSION, len(header)), header]
    for tensor in prompt.tensors.values():
        kind = HALF if tensor.bits == 16 else CODES
        parts.append(tensor.payload.numpy().astype(kind).tobytes())
        parts.append(tensor.codebook.numpy().astype(HALF).tobytes())
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def unpack_prompt(data: bytes, fingerprint: str | None = None) -> tuple[StoredPrompt, Any]:
    """Return the prompt and the description in a file's bytes.

    The values are bit for bit those that were packed.

    Args:
        data: the whole file.
        fingerprint: of the backbone in use; None accepts a prompt of any.

    Raises:
        ValueError: if the data is damaged or not a prompt, or the prompt is another backbone's.
    """
    try:
        header_data, payload = split(data)
        header = read_header(header_data)
        tensors = dict(read_tensors(header.tensors, payload))
        check_factors(header.n_ctx, tensors)
    except ValueError as error:
        raise ValueError(f"not a readable prompt file: {error}") from None
    if fingerprint is not None and fingerprint != header.fingerprint:
        raise ValueError(
            f"learned for a backbone with fingerprint {header.fingerprint}; expected {fingerprint}"
        )
    return StoredPrompt(header.init, header.n_ctx, tensors), header.about


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return header and payload, after a check of the frame around them.

    Raises:
        ValueError: on another magic or version, a wrong length or checksum.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"it starts with {data[: len(MAGIC)]!r}; expected {MAGIC!r}")
    end = len(data) - DIGEST_BYTES
    if end < FRAME.size:
        raise ValueError(f"got {len(data)} bytes; expected {FRAME.size + DIGEST_BYTES} or more")
    _, version, header_bytes = FRAME.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"got version {version}; expected {VERSION}")
    start = FRAME.size + header_bytes
    if start > end:
        raise ValueError(f"got {len(data)} bytes, with a header of {header_bytes}: it is truncated")
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end:]:
        raise ValueError("its checksum is wrong")
    return data[FRAME.size : start], data[start:end]


def read_tensors(entries: list[Entry], payload: bytes) -> Iterator[tuple[str, StoredTensor]]:
    """Yield each tensor's name and values.

    Raises:
        ValueError: if the payload is not as long as the entries say, before anything is read, or
            if a value is not finite.
    """
    expected = sum(entry.code_bytes + entry.codebook_bytes for entry in entries)
    if len(payload) != expected:
        raise ValueError(f"got {len(payload)} bytes of values; expected {expected} by its header")
    start = 0
    for entry in entries:
        middle = start + entry.code_bytes
        end = middle + entry.codebook_bytes
        values = read_array(payload[start:middle], HALF if entry.bits == 16 else CODES)
        codebook = read_array(payload[middle:end], HALF).view(entry.codebook_shape)
        if not (values.isfinite().all() and codebook.isfinite().all()):
            raise ValueError(f"{entry.name!r} has values that are not finite")
        shape = tuple(entry.shape)
        values = values.view(shape) if entry.bits == 16 else values
        yield entry.name, StoredTensor(shape, entry.bits, values, codebook)
        start = end


def read_array(data: bytes, kind: np.dtype[Any]) -> Tensor:
    """Return a file's numbers in the machine's own byte order."""
    return torch.from_numpy(np.frombuffer(data, kind).astype(kind.newbyteorder("=")))


def packed_size(data: bytes) -> PackedSize:
    """Return how many of a file's bytes rebuild the prompt, and how many are the rest.

    Raises:
        ValueError: if the data is not a prompt.
    """
    payload_bytes = len(split(data)[1])
    return PackedSize(payload_bytes, len(data) - payload_bytes)


def save_prompt(path: Path, prompt: StoredPrompt, fingerprint: str, about: Any) -> None:
    """Write a prompt, the fingerprint of its backbone, and its description (any JSON)."""
    path.write_bytes(pack_prompt(prompt, fingerprint, about))


def load_prompt(path: Path, fingerprint: str | None = None) -> tuple[StoredPrompt, Any]:
    """Read a prompt and its description, as `unpack_prompt` does.

    Raises:
        ValueError: if the file is missing, damaged or not a prompt, or the prompt is another
            backbone's.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: not a readable prompt file: {error.strerror}") from None
    try:
        return unpack_prompt(data, fingerprint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
