"""Prompts of every kind, and files that are taken apart and put together by hand."""

import hashlib
import json
import struct
from typing import Any

import torch

from pipeline.prompts.file import (
    pack_prompt,
    unpack_prompt,
)
from pipeline.prompts.stored import StoredPrompt, StoredTensor

D = 512
ABOUT = {"task": "fleurs é花", "seed": 1, "result": {"base": 0.5, "held_out": None}}


def factor(*shape: int, bits: int = 16, groups: int = 1) -> StoredTensor:
    """Return a random factor."""
    if bits == 16:
        return StoredTensor.from_values(torch.randn(shape))
    return StoredTensor.from_codes(
        torch.randint(2**bits, shape), torch.randn(groups, 2**bits), bits
    )


PROMPTS = {
    "zero-shot": {},
    "coop": {"context_MD": factor(4, 16)},
    "qcoop": {"context_MD": factor(4, 16, bits=2)},
    "codebook per row": {"context_MD": factor(4, 16, bits=3, groups=4)},
    "low rank": {"left_MR": factor(4, 1, bits=1), "right_RD": factor(1, 16, bits=1)},
    "mixed": {"left_MR": factor(4, 2), "right_RD": factor(2, 16, bits=1, groups=2)},
    "maple": {
        "context_MD": factor(4, 16),
        "deep_JMD": factor(2, 4, 16, bits=4, groups=2),
        "coupling_JWD": factor(3, 6, 16, bits=4, groups=3),
        "bias_JW": factor(3, 6),
    },
    "shallow maple": {
        "context_MD": factor(4, 16),
        "coupling_JWD": factor(1, 6, 16, bits=8),
        "bias_JW": factor(1, 6),
    },
}


def prompt_of(kind: str) -> StoredPrompt:
    """Return one of the prompts, with four context tokens."""
    return StoredPrompt("a photo of a", 4, PROMPTS[kind])


def signed(body: bytes) -> bytes:
    """Put the right checksum behind something."""
    return body + hashlib.sha256(body).digest()


def file_of(header: Any, payload: bytes) -> bytes:
    """Return a file with a right frame and checksum around any header and payload."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return signed(struct.pack("<8sHI", b"\x89LOQUA\r\n", 1, len(text)) + text + payload)


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a good file apart, by the layout alone."""
    magic, version, size = struct.unpack_from("<8sHI", data)
    assert (magic, version) == (b"\x89LOQUA\r\n", 1)
    return json.loads(data[14 : 14 + size]), data[14 + size : -32]


def same(found: StoredPrompt, expected: StoredPrompt) -> bool:
    """Whether two prompts are the same, bit for bit, in the same order."""
    pairs = zip(found.tensors.values(), expected.tensors.values(), strict=True)
    return (found.init, found.n_ctx, list(found.tensors)) == (
        expected.init,
        expected.n_ctx,
        list(expected.tensors),
    ) and all(
        (a.shape, a.bits, a.codebook.shape) == (b.shape, b.bits, b.codebook.shape)
        and torch.equal(a.payload, b.payload)
        and torch.equal(a.codebook, b.codebook)
        for a, b in pairs
    )


def unpack_or_refuse(data: bytes) -> bool:
    """Whether data is taken; if so it must be whole: what it gives packs and unpacks again."""
    try:
        prompt, about = unpack_prompt(data)
    except ValueError:
        return False
    assert all(bool(value.isfinite().all()) for value in prompt.values().values())
    assert same(unpack_prompt(pack_prompt(prompt, "", about))[0], prompt)
    return True
