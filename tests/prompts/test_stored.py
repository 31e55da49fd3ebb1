"""What is stored is what is used, and it costs what we say it costs."""

import math

import pytest
import torch

from pipeline.prompts.config import PromptConfig
from pipeline.prompts.context import merge
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.stored import StoredTensor, check_factors
from tests.helpers.reference import decode, pack_bits

D = 512


def zeros(**shapes: tuple[int, ...]) -> dict[str, StoredTensor]:
    """Return factors of some shapes."""
    return {name: StoredTensor.from_values(torch.zeros(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1,), 1), ((3, 5), 1), ((3, 5), 3), ((4, 2), 2), ((7, 13), 7), ((6, 2, 3), 2), ((6, 3), 6)],
)
def test_codes_are_packed_and_found_again(shape: tuple[int, ...], groups: int, bits: int) -> None:
    codes = torch.randint(2**bits, shape)
    codebook_GC = torch.randn(groups, 2**bits).half()
    tensor = StoredTensor.from_codes(codes, codebook_GC, bits)
    assert tensor.payload.numpy().tobytes() == pack_bits(codes.flatten().tolist(), bits)
    expected = decode(codes.flatten().tolist(), codebook_GC.tolist())
    assert tensor.values().flatten().tolist() == expected
    assert tensor.values().shape == shape
    assert tensor.values().dtype == torch.float32
    size = math.ceil(codes.numel() * bits / 8) + 2 * groups * 2**bits
    assert tensor.size_bytes == tensor.payload.nbytes + 2 * codebook_GC.numel() == size


def test_one_codebook_for_all_is_the_same_codebook_for_each() -> None:
    codes, codebook_C = torch.randint(4, (6, 5)), torch.randn(4)
    one = StoredTensor.from_codes(codes, codebook_C[None], 2)
    each = StoredTensor.from_codes(codes, codebook_C.expand(6, 4), 2)
    assert torch.equal(one.values(), each.values())


def test_values_are_kept_in_half_precision() -> None:
    values = torch.randn(3, 7)
    tensor = StoredTensor.from_values(values)
    assert torch.equal(tensor.values(), values.half().float())
    assert tensor.size_bytes == 2 * 21


@pytest.mark.parametrize("wrong", [65520.0, -1e5, math.inf, math.nan])
def test_what_half_precision_cannot_hold_is_refused(wrong: float) -> None:
    values = torch.tensor([[0.5, wrong], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"value of .*; expected .* up to 65504"):
        StoredTensor.from_values(values)
    with pytest.raises(ValueError, match="up to 65504"):
        StoredTensor.from_codes(torch.zeros(4, 3), values, 1)


def test_the_largest_half_is_kept() -> None:
    assert StoredTensor.from_values(torch.tensor([65504.0])).values().item() == 65504


@pytest.mark.parametrize(
    ("rank", "bits", "n_ctx", "expected"),
    [
        ("full", 16, 4, 2 * 4 * D),  # CoOp: 4.1 KB
        (1, 16, 4, 2 * (4 + D)),  # RLP: 1.03 KB
        ("full", 1, 4, 4 * D // 8 + 2 * 2),  # QCoOp: 0.26 KB
        (1, 1, 4, (1 + D // 8) + 2 * 2 * 2),  # 4 bits of the left factor fill a byte: 65 + 8
        (2, 3, 4, 2 * 8 + 2 * D * 3 // 8 + 2 * 8),  # U is smaller without a codebook
        (1, 8, 3, 2 * 3 + D + 2 * 256),
    ],
)
def test_size_is_counted_by_hand(rank: int | str, bits: int, n_ctx: int, expected: int) -> None:
    config = PromptConfig(init="a", rank=rank, bits=bits, n_ctx=n_ctx)
    assert Prompt(config, torch.randn(n_ctx, D), seed=1).store().size_bytes == expected


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


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"context_MD": (4, 8)},
        {"left_MR": (4, 2), "right_RD": (2, 8)},
        {"right_RD": (2, 8), "left_MR": (4, 2)},
        {"context_MD": (4, 8), "coupling_JWD": (1, 12, 8), "bias_JW": (1, 12)},
        {
            "context_MD": (4, 8),
            "deep_JMD": (2, 4, 8),
            "coupling_JWD": (3, 12, 8),
            "bias_JW": (3, 12),
        },
    ],
)
def test_every_kind_of_prompt_is_accepted(shapes: dict[str, tuple[int, ...]]) -> None:
    check_factors(4, zeros(**shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        {"context_MD": (5, 8)},
        {"context_MD": (4, 8, 1)},
        {"context_MD": (4,)},
        {"left_MR": (4, 2)},
        {"right_RD": (2, 8)},
        {"left_MR": (4, 3), "right_RD": (2, 8)},
        {"left_MR": (5, 2), "right_RD": (2, 8)},
        {"left_MR": (4, 6), "right_RD": (6, 8)},
        {"context_MD": (4, 8), "left_MR": (4, 2), "right_RD": (2, 8)},
        {"context_MD": (4, 8), "other": (1,)},
        {"other": (4, 8)},
        {"context_MD": (4, 8), "coupling_JWD": (1, 12, 8)},
        {"context_MD": (4, 8), "coupling_JWD": (1, 12, 8), "bias_JW": (2, 12)},
        {"context_MD": (4, 8), "coupling_JWD": (1, 12, 9), "bias_JW": (1, 12)},
        {"context_MD": (5, 8), "coupling_JWD": (1, 12, 8), "bias_JW": (1, 12)},
        {"context_MD": (4, 8), "coupling_JWD": (2, 12, 8), "bias_JW": (2, 12)},
        {"context_MD": (4, 8), "deep_JMD": (2, 4, 8)},
        {
            "context_MD": (4, 8),
            "deep_JMD": (3, 4, 8),
            "coupling_JWD": (3, 12, 8),
            "bias_JW": (3, 12),
        },
    ],
)
def test_factors_that_make_no_context_are_named(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"factors \{.*make no context of 4 tokens"):
        check_factors(4, zeros(**shapes))
