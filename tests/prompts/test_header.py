"""A header that lies is refused by name, whatever its checksum says."""

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

from pipeline.prompts.file import (
    load_prompt,
    pack_prompt,
    unpack_prompt,
)
from tests.helpers.prompt_files import (
    ABOUT,
    PROMPTS,
    file_of,
    parts_of,
    prompt_of,
    unpack_or_refuse,
)

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
        ({"shape": [4, 17]}, "128 bytes of values; expected 136"),
        ({"shape": [64]}, r"factors .*make no context of 4 tokens"),
        ({"bits": True}, "tensors.0.bits: .*valid integer"),
        ({"bits": 0}, "bits: got 0; expected 1 to 8, or 16"),
        ({"bits": 9}, "bits: got 9"),
        ({"bits": -16}, "bits: got -16"),
        ({"bits": None}, "tensors.0.bits: .*valid integer"),
        ({"codebooks": 1}, "codebooks: got 1 for 4 rows of 16 bits"),
        ({"codebooks": -1}, "tensors.0.codebooks: .*greater than or equal to 0"),
        ({"bits": 4}, "codebooks: got 0 for 4 rows of 4 bits"),
        ({"bits": 4, "codebooks": 3}, "codebooks: got 3 for 4 rows"),
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
        (b"NaN", "got NaN"),
        (b"[1.5, -1e999]", "got -1e999"),
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
        ({**changed(), "tensors": changed()["tensors"] * 2}, "each once"),
        ({**changed(), "tensors": []}, "128 bytes of values; expected 0"),
        ({**changed(), "about": math.nan}, "got NaN"),
        ({**changed(), "about": [-math.inf]}, "got -Infinity"),
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
        with pytest.raises(ValueError, match="128 bytes of values; expected"):
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
    with pytest.raises(ValueError, match=f"got version {version}; expected 1"):
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
