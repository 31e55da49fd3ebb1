"""What is stored is what is used, and it costs what we say it costs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.prompts import Prompt, PromptConfig, merge
from pipeline.stored_prompt import FORMAT, StoredPrompt, StoredTensor, load_prompt, save_prompt

D = 512


def stored(rank: int | str, bits: int, n_ctx: int = 4) -> StoredPrompt:
    """Return a prompt away from its start."""
    config = PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=n_ctx)
    prompt = Prompt(config, torch.randn(n_ctx, D), seed=1)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.normal_()
    prompt()
    return prompt.store()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(1,), (3, 5), (4, 2), (7, 13)])
def test_codes_survive_packing(shape: tuple[int, ...], bits: int) -> None:
    codes = torch.randint(2**bits, shape)
    codebook = torch.arange(2**bits).half()
    tensor = StoredTensor.from_codes(codes, codebook, bits)
    assert torch.equal(tensor.values(), codes.float())
    assert tensor.payload.nbytes == -(-codes.numel() * bits // 8)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("rank", ["full", 1, 3])
def test_the_round_trip_is_bit_exact(rank: int | str, bits: int, tmp_path: Path) -> None:
    prompt = stored(rank, bits)
    about = {"task": "pets", "seed": 1, "result": {"base": 0.5}}
    save_prompt(tmp_path / "prompt.safetensors", prompt, about)
    loaded, found = load_prompt(tmp_path / "prompt.safetensors")
    assert found == about
    assert (loaded.init, loaded.n_ctx, loaded.size_bytes) == (
        prompt.init,
        prompt.n_ctx,
        prompt.size_bytes,
    )
    values = prompt.values()
    assert loaded.values().keys() == values.keys()
    for name, value in loaded.values().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, values[name])


@pytest.mark.parametrize(
    ("rank", "bits", "n_ctx", "expected"),
    [
        ("full", 16, 4, 2 * 4 * D),  # CoOp: 4.1 KB
        (1, 16, 4, 2 * (4 + D)),  # RLP: 1.03 KB
        ("full", 1, 4, 4 * D // 8 + 2 * 2),  # QCoOp: 0.26 KB
        (1, 1, 4, (1 + D // 8) + 2 * 2 * 2),  # 4 bits of the left factor fill a byte: 65 + 8
        (2, 3, 4, (3 + 2 * D * 3 // 8) + 2 * 8 * 2),
        (1, 8, 3, (3 + D) + 2 * 256 * 2),
    ],
)
def test_size_is_counted_by_hand(rank: int | str, bits: int, n_ctx: int, expected: int) -> None:
    assert stored(rank, bits, n_ctx).size_bytes == expected


def test_the_smallest_prompt_is_73_bytes() -> None:
    assert stored(1, 1).size_bytes == 73


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_stored_and_trained_contexts_agree_to_half_precision(bits: int) -> None:
    init_MD = torch.randn(4, 32)
    prompt = Prompt(PromptConfig(init="a", rank=2, bits=bits, n_ctx=4), init_MD, seed=1)
    with torch.no_grad():
        prompt.factors["right_RD"].normal_()
    trained = prompt()
    context = merge(init_MD, prompt.store().values())
    eps = torch.finfo(torch.float16).eps
    torch.testing.assert_close(context, trained, rtol=8 * eps, atol=8 * eps)


def damage(path: Path, kind: str) -> None:
    """Put something else than a prompt at `path`."""
    whole = path.read_bytes()
    prompt, n_ctx = {"payload": torch.zeros(4)}, 4
    header = {"format": FORMAT, "init": "a", "n_ctx": n_ctx, "about": {}, "tensors": {}}
    if kind == "truncated":
        path.write_bytes(whole[:-3])
    elif kind == "header cut":
        path.write_bytes(whole[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "picture":
        path.write_bytes(b"\x89PNG" + bytes(100))
    elif kind == "other safetensors":
        save_file(prompt, path)
    elif kind == "other format":
        save_file(prompt, path, metadata={"prompt": json.dumps({**header, "format": "x"})})
    elif kind == "no factors":
        save_file(prompt, path, metadata={"prompt": json.dumps(header)})
    elif kind == "no about":
        del header["about"]
        half = StoredTensor.from_values(torch.zeros(n_ctx, 8))
        tensors = {"context_MD.payload": half.payload, "context_MD.codebook": half.codebook}
        header["tensors"] = {"context_MD": {"shape": [n_ctx, 8], "bits": 16}}
        save_file(tensors, path, metadata={"prompt": json.dumps(header)})
    elif kind == "list":
        save_file(prompt, path, metadata={"prompt": "[]"})
    elif kind == "tensors no dict":
        save_file(prompt, path, metadata={"prompt": json.dumps({**header, "tensors": 3})})


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "header cut",
        "empty",
        "missing",
        "picture",
        "other safetensors",
        "other format",
        "no factors",
        "no about",
        "list",
        "tensors no dict",
    ],
)
def test_a_damaged_or_foreign_file_is_an_error_with_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    save_prompt(path, stored(1, 1), {})
    damage(path, kind)
    with pytest.raises(ValueError, match=r"prompt\.safetensors: not a readable prompt file"):
        load_prompt(path)


def test_factors_of_another_length_are_refused(tmp_path: Path) -> None:
    prompt = stored("full", 16)
    save_prompt(tmp_path / "p", StoredPrompt(prompt.init, 5, prompt.tensors), {})
    with pytest.raises(ValueError, match="no context of 5 tokens"):
        load_prompt(tmp_path / "p")
