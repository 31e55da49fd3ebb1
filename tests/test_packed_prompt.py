"""A prompt's file gives back every bit, costs what we say, and cannot do harm."""

import hashlib
import json
import math
import pickle
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.features import TaskFeatures
from pipeline.metrics import logits
from pipeline.packed_prompt import (
    load_prompt,
    pack_prompt,
    packed_size,
    save_prompt,
    unpack_prompt,
)
from pipeline.prompts import Prompt, PromptConfig, merge
from pipeline.run import TextSide
from pipeline.stored_prompt import StoredPrompt, StoredTensor

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
    with pytest.raises(ValueError, match=r"x\.prompt: learned for .* mine; found is other$"):
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


JUNK: list[Callable[[random.Random], Any]] = [
    lambda _: None,
    lambda rng: rng.choice([True, False]),
    lambda rng: rng.choice([0, -1, -4, 1, 2, 3, 4, 5, 16, 17, 2**31, 2**63, 10**400]),
    lambda rng: rng.choice([0.0, 1.0, 4.0, -2.5, 1e300]),
    lambda rng: rng.choice(["", " ", "4", "context_MD", "right_RD", "\ud800", "\x00", "é" * 9]),
    lambda rng: [rng.choice([1, 4, 16, True, -4, None]) for _ in range(rng.randrange(5))],
    lambda rng: {rng.choice(["name", "shape", "x"]): rng.choice([1, "context_MD", [4, 16]])},
]


def spoil(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one random place replaced, removed, doubled or moved."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(JUNK)(rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(list(keys))
    spoiled: Any = value.copy()
    act = rng.random()
    if act < 0.1:
        del spoiled[key]
    elif act < 0.2 and isinstance(spoiled, list):
        spoiled.insert(rng.randrange(len(spoiled) + 1), spoiled[key])
    elif act < 0.25 and isinstance(spoiled, dict):
        spoiled["more"] = rng.choice(JUNK)(rng)
    else:
        spoiled[key] = spoil(value[key], rng)
    return spoiled


def test_random_headers_with_a_right_checksum_are_refused_or_a_whole_prompt() -> None:
    rng = random.Random(3)
    taken = refused = 0
    for kind in PROMPTS:
        header, payload = parts_of(pack_prompt(prompt_of(kind), "f", ABOUT))
        for _ in range(300):
            spoiled = spoil(header, rng)
            if rng.random() < 0.3:
                spoiled = spoil(spoiled, rng)
            if unpack_or_refuse(file_of(spoiled, payload)):
                taken += 1
            else:
                refused += 1
    assert taken > 50
    assert refused > 500


def changed(**entry: Any) -> dict[str, Any]:
    """Return a good header of one factor [4, 16] at 16 bits, with some of its entry replaced."""
    plain = {"name": "context_MD", "shape": [4, 16], "bits": 16, "codebooks": 0}
    tensors = [{**plain, **entry}]
    return {"init": "a", "n_ctx": 4, "tensors": tensors, "fingerprint": "", "about": {}}


def test_the_good_header_of_these_tests_is_good() -> None:
    assert unpack_or_refuse(file_of(changed(), bytes(128)))
    assert unpack_or_refuse(file_of(changed(bits=4, codebooks=2), bytes(32 + 64)))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [-4, -16]}, "tensors.0.shape.0: .*greater than or equal to 1"),
        ({"shape": [4, 0]}, "tensors.0.shape.1: .*greater than or equal to 1"),
        ({"shape": [True, 64]}, "tensors.0.shape.0: .*valid integer"),
        ({"shape": [4.0, 16]}, "tensors.0.shape.0: .*valid integer"),
        ({"shape": ["4", 16]}, "tensors.0.shape.0: .*valid integer"),
        ({"shape": [2**31, 1]}, "tensors.0.shape.0: .*less than"),
        ({"shape": []}, "tensors.0.shape: .*at least 1"),
        ({"shape": [1, 2, 2, 16]}, "tensors.0.shape: .*at most 3"),
        ({"shape": 64}, "tensors.0.shape: .*valid list"),
        ({"shape": [4, 17]}, "128 bytes of values, with a header that tells of 136"),
        ({"shape": [64]}, r"factors .*make no context of 4 tokens"),
        ({"bits": True}, "tensors.0.bits: .*valid integer"),
        ({"bits": 0}, "bits: found 0; allowed are 1 to 8, and 16"),
        ({"bits": 9}, "bits: found 9"),
        ({"bits": -16}, "bits: found -16"),
        ({"bits": None}, "tensors.0.bits: .*valid integer"),
        ({"codebooks": 1}, "codebooks: found 1 for 4 rows of 16 bits"),
        ({"codebooks": -1}, "tensors.0.codebooks: .*greater than or equal to 0"),
        ({"bits": 4}, "codebooks: found 0 for 4 rows of 4 bits"),
        ({"bits": 4, "codebooks": 3}, "codebooks: found 3 for 4 rows"),
        ({"bits": 4, "codebooks": False}, "tensors.0.codebooks: .*valid integer"),
        ({"name": 3}, "tensors.0.name: .*valid string"),
        ({"name": "x"}, "make no context"),
        ({"offset": 3}, "tensors.0.offset: .*not permitted"),
    ],
)
def test_a_wrong_entry_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_prompt(file_of(changed(**entry), bytes(128)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"about":' * 100_000, "recursion"),
        (b"", "Expecting value"),
        (b"\xff\xfe{\0}\0", "utf-8"),
        (b"NaN", "found NaN"),
        (b"[1.5, -1e999]", "found -1e999"),
        (b"1" * 5000, "limit"),
        (b"[]", "header: .*valid dictionary"),
        (b"{}", "header.init: Field required"),
        ({**changed(), "n_ctx": True}, "header.n_ctx: .*valid integer"),
        ({**changed(), "n_ctx": 0}, "header.n_ctx: .*greater"),
        ({**changed(), "n_ctx": 5}, "make no context of 5 tokens"),
        ({**changed(), "init": " "}, "header.init"),
        ({**changed(), "init": ["a"]}, "header.init: .*valid string"),
        ({**changed(), "fingerprint": None}, "header.fingerprint: .*valid string"),
        ({**changed(), "tensors": {}}, "header.tensors: .*valid list"),
        ({**changed(), "tensors": changed()["tensors"] * 2}, "every name once"),
        ({**changed(), "tensors": []}, "128 bytes of values, with a header that tells of 0"),
        ({**changed(), "about": math.nan}, "found NaN"),
        ({**changed(), "about": [-math.inf]}, "found -Infinity"),
    ],
)
def test_a_hostile_header_is_refused(header: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i)not a readable prompt file: .*{message}"):
        unpack_prompt(file_of(header, bytes(128)))


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_huge_shape_takes_no_memory(bits: int) -> None:
    entry = {"shape": [2**30, 2**30, 2**30], "bits": bits, "codebooks": 0 if bits == 16 else 2**30}
    data = file_of(changed(**entry), bytes(128))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="128 bytes of values, with a header that tells of"):
            unpack_prompt(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_values_and_codebooks_that_are_not_finite_are_refused(wrong: float) -> None:
    bad, entry = struct.pack("<e", wrong), {"bits": 1, "codebooks": 1}
    for header, payload in (
        (changed(), bytes(126) + bad),
        (changed(**entry), bytes(8) + bad + bytes(2)),
    ):
        with pytest.raises(ValueError, match="'context_MD' has values that are not finite"):
            unpack_prompt(file_of(header, payload))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_description_that_is_no_json_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        pack_prompt(prompt_of("coop"), "", {"score": value})


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_another_version_is_named_before_anything_is_read(version: int) -> None:
    data = pack_prompt(prompt_of("coop"), "", {})
    other = data[:8] + struct.pack("<H", version) + data[10:]
    with pytest.raises(ValueError, match=f"version {version}; allowed is 1"):
        unpack_prompt(other)


def test_what_is_no_prompt_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.prompt"
    with pytest.raises(ValueError, match=r"x\.prompt: .*No such file"):
        load_prompt(path)
    with pytest.raises(ValueError, match=r"Is a directory"):
        load_prompt(tmp_path)
    for data in (
        b"",
        b"\x89PNG" + bytes(100),
        pickle.dumps(print),
        save({"context_MD": torch.zeros(4, 16)}),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.prompt: not a readable prompt file: it starts"):
            load_prompt(path)
