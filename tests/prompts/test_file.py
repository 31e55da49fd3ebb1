"""A prompt's file gives back every bit, costs what we say, and cannot do harm."""

import math
import random
import struct
from pathlib import Path

import pytest
import torch

from pipeline.clip.encoders import TextSide
from pipeline.clip.similarity import logits
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.context import merge
from pipeline.prompts.file import (
    load_prompt,
    pack_prompt,
    packed_size,
    save_prompt,
    unpack_prompt,
)
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredPrompt, StoredTensor
from tests.helpers.prompt_files import (
    ABOUT,
    PROMPTS,
    D,
    factor,
    parts_of,
    prompt_of,
    same,
    signed,
    unpack_or_refuse,
)


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_round_trip_is_bit_exact(kind: str, tmp_path: Path) -> None:
    prompt, path = prompt_of(kind), tmp_path / "x.prompt"
    save_prompt(path, prompt, "f" * 64, ABOUT)
    for fingerprint in (None, "f" * 64):
        found, about = load_prompt(path, fingerprint)
        assert about == ABOUT
        assert same(found, prompt)
        for name, value in prompt.values().items():
            assert torch.equal(found.values()[name], value)
    assert path.read_bytes() == pack_prompt(found, "f" * 64, about)


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
@pytest.mark.parametrize("rank", ["full", 2])
def test_logits_are_identical_before_and_after(
    text: TextSide, features: TaskFeatures, rank: int | str, bits: int
) -> None:
    config = PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=4)
    prompt = Prompt(config, text.init_MD(4), seed=1)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    stored = prompt.store()
    found, _ = unpack_prompt(pack_prompt(stored, "", None))
    names = text.pack(features.class_names, 4)
    before, after = (
        logits(features.features_NE, text.class_embeddings([p], names)[0], text.logit_scale)
        for p in (stored, found)
    )
    assert torch.equal(before, after)


def test_a_prompt_without_factors_is_the_template_and_costs_nothing(text: TextSide) -> None:
    prompt = prompt_of("zero-shot")
    found, _ = unpack_prompt(pack_prompt(prompt, "", None))
    assert found.size_bytes == packed_size(pack_prompt(prompt, "", None)).payload_bytes == 0
    assert torch.equal(merge(text.init_MD(4), found.values()), text.init_MD(4))


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_two_sizes_are_all_of_the_file(kind: str) -> None:
    prompt = prompt_of(kind)
    data = pack_prompt(prompt, "f" * 64, ABOUT)
    size = packed_size(data)
    assert size.payload_bytes == prompt.size_bytes == len(parts_of(data)[1])
    assert size.payload_bytes + size.header_bytes == len(data)


@pytest.mark.parametrize("bits", [*range(1, 9), 16])
@pytest.mark.parametrize(
    ("shape", "groups"), [((1, 1), 1), ((4, 512), 1), ((4, 3), 2), ((5, 7), 5), ((16, 33), 8)]
)
def test_the_payload_is_codes_and_codebooks_alone(
    shape: tuple[int, int], groups: int, bits: int
) -> None:
    prompt = StoredPrompt("a", shape[0], {"context_MD": factor(*shape, bits=bits, groups=groups)})
    books = 0 if bits == 16 else 2 * groups * 2**bits
    expected = math.ceil(shape[0] * shape[1] * bits / 8) + books
    assert packed_size(pack_prompt(prompt, "", {})).payload_bytes == expected


def test_the_smallest_prompt_of_clip_is_73_bytes() -> None:
    tensors = {"left_MR": factor(4, 1, bits=1), "right_RD": factor(1, D, bits=1)}
    assert packed_size(pack_prompt(StoredPrompt("a", 4, tensors), "", {})).payload_bytes == 73


def test_the_layout_is_the_documented_one() -> None:
    codes = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1]])
    tensors = {
        "left_MR": StoredTensor.from_values(torch.tensor([[1.0, -2.0]])),
        "right_RD": StoredTensor.from_codes(codes, torch.tensor([[0.5, 4.0], [-1.0, 8.0]]), 1),
    }
    header, payload = parts_of(pack_prompt(StoredPrompt("a b", 1, tensors), "ff", [None, 1.5]))
    assert header == {
        "init": "a b",
        "n_ctx": 1,
        "tensors": [
            {"name": "left_MR", "shape": [1, 2], "bits": 16, "codebooks": 0},
            {"name": "right_RD", "shape": [2, 5], "bits": 1, "codebooks": 2},
        ],
        "fingerprint": "ff",
        "about": [None, 1.5],
    }
    codebooks = struct.pack("<4e", 0.5, 4.0, -1.0, 8.0)
    assert payload == struct.pack("<2e", 1.0, -2.0) + b"\x6e\x40" + codebooks


def test_a_prompt_for_another_tower_is_refused_by_both_names(tmp_path: Path) -> None:
    path = tmp_path / "x.prompt"
    save_prompt(path, prompt_of("coop"), "mine", {})
    with pytest.raises(ValueError, match=r"x\.prompt: learned for .* mine; expected other$"):
        load_prompt(path, "other")


@pytest.mark.parametrize("kind", ["coop", "mixed"])
def test_every_flipped_byte_is_found_out(kind: str) -> None:
    data = pack_prompt(prompt_of(kind), "f", ABOUT)
    rng = random.Random(1)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= rng.randrange(1, 256)
        with pytest.raises(ValueError, match="not a readable prompt file"):
            unpack_prompt(bytes(damaged))


@pytest.mark.parametrize("kind", ["zero-shot", "coop", "mixed"])
def test_every_truncation_and_every_appended_byte_is_found_out(kind: str) -> None:
    data = pack_prompt(prompt_of(kind), "f", ABOUT)
    body = data[:-32]
    for end in range(len(data)):
        with pytest.raises(ValueError, match="not a readable prompt file"):
            unpack_prompt(data[:end])
    for end in range(len(body)):
        assert not unpack_or_refuse(signed(body[:end])), "cut before it was signed"
    for more in (b"\0", b"\0" * 32, data):
        assert not unpack_or_refuse(data + more)
        assert not unpack_or_refuse(signed(body + more))


@pytest.mark.parametrize("kind", ["mixed", "maple", "codebook per row"])
def test_flipped_bytes_behind_a_repaired_checksum_are_refused_or_a_whole_prompt(kind: str) -> None:
    body = pack_prompt(prompt_of(kind), "f", ABOUT)[:-32]
    rng = random.Random(2)
    taken = 0
    for _ in range(1500):
        damaged = bytearray(body)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(body))] = rng.randrange(256)
        taken += unpack_or_refuse(signed(bytes(damaged)))
    assert 0 < taken < 1500, "both must happen, or this tests nothing"
