"""One family: what starts where, what trains, and what rank it has."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.prompts.config import LowRankConfig, PromptConfig
from pipeline.prompts.context import init_tokens, low_rank_context, merge
from pipeline.prompts.prompt import Prompt, start_left

M, D = 4, 24


def config(
    rank: int | str = "full", bits: int = 16, n_ctx: int = M, **changed: Any
) -> PromptConfig:
    """Return a point of the family."""
    return PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=n_ctx, **changed)


def template(n_ctx: int = M) -> torch.Tensor:
    """Return the embeddings of a template."""
    return torch.randn(n_ctx, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_low_rank_context_differs_by_at_most_that_rank(rank: int) -> None:
    context_MD = low_rank_context(template(), torch.randn(M, rank), torch.randn(rank, D))
    difference = (context_MD - template()).double()
    assert torch.linalg.matrix_rank(difference, rtol=1e-5) <= rank
    assert torch.linalg.matrix_rank(difference, rtol=1e-5) == min(rank, M)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_does_not_fit_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank: got {rank}; expected 1 to .* = 4"):
        low_rank_context(template(), torch.zeros(M, rank), torch.zeros(rank, D))


def test_a_rank_above_the_context_is_infeasible() -> None:
    with pytest.raises(ValueError, match="rank: got 5"):
        Prompt(config(5), template(), seed=1)
    assert "rank 5" in config(5).infeasible()
    assert all(config(rank).infeasible() is None for rank in (0, 1, M, "full"))


def test_full_rank_factors_reach_every_context() -> None:
    """U V spans all updates: CoOp is RLP at rank M."""
    wanted_MD = torch.randn(M, D)
    prompt = Prompt(config(M), template(), seed=1)
    with torch.no_grad():
        left_MR = prompt.factors["left_MR"]
        prompt.factors["right_RD"].copy_(torch.linalg.solve(left_MR, wanted_MD - template()))
    torch.testing.assert_close(prompt(), wanted_MD, rtol=1e-4, atol=1e-4)


def test_rank_zero_is_the_template_and_learns_nothing() -> None:
    prompt = Prompt(config(0, 1), template(), seed=1)
    assert torch.equal(prompt(), template())
    assert not list(prompt.parameters())
    assert prompt.store().size_bytes == 0
    assert torch.equal(merge(template(), prompt.store().values()), template())


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_low_rank_prompt_starts_exactly_at_the_template(rank: int, bits: int) -> None:
    prompt = Prompt(config(rank, bits), template(), seed=3)
    assert torch.equal(prompt(), template())
    left, right = (prompt.store().values()[name] for name in ("left_MR", "right_RD"))
    assert torch.equal(template() + left @ right, template())


def test_a_full_prompt_starts_at_the_template() -> None:
    assert torch.equal(Prompt(config(), template(), seed=3)(), template())


@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("rank", ["full", 1, 2, 4])
def test_exactly_the_reparameterization_trains(rank: int | str, bits: int) -> None:
    prompt = Prompt(config(rank, bits), template(), seed=1)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.add_(0.1)
    prompt().square().sum().backward()
    names = {"context_MD"} if rank == "full" else {"left_MR", "right_RD"}
    grads = {name.removeprefix("factors."): p.grad for name, p in prompt.named_parameters()}
    assert set(grads) == names
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    expected = M * D if rank == "full" else rank * (M + D)
    assert sum(p.numel() for p in prompt.parameters()) == expected


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("kind", ["normal", "orthogonal"])
def test_the_left_factor_starts_at_its_scale(kind: str, rank: int) -> None:
    lefts = [
        start_left(
            LowRankConfig(left_init=kind, left_scale=3.0),
            (M, rank),
            torch.Generator().manual_seed(seed),
        )
        for seed in range(200)
    ]
    squares = torch.stack([left.square().sum() / M for left in lefts])
    torch.testing.assert_close(squares.mean(), torch.tensor(9.0), rtol=0.15, atol=0)
    if kind == "orthogonal":
        torch.testing.assert_close(squares, torch.full_like(squares, 9.0))
        gram = lefts[0].T @ lefts[0]
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-5)


def test_the_optimizer_gets_every_parameter_once_and_the_left_factor_at_its_share() -> None:
    prompt = Prompt(config(2, low_rank={"left_lr": 0.25}), template(), seed=1)
    shares = {id(p): group["share"] for group in prompt.groups() for p in group["params"]}
    assert shares == {
        id(prompt.factors["left_MR"]): 0.25,
        id(prompt.factors["right_RD"]): 1.0,
    }
    full = Prompt(config(residual={"hidden": 8}), template(), seed=1)
    grouped = [id(p) for group in full.groups() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in full.parameters())


@pytest.mark.parametrize(
    ("bits", "left_bits", "rank", "expected"),
    [(1, "auto", 1, 1), (2, "auto", 1, 16), (2, "auto", 2, 2), (4, "auto", 4, 16),
     (1, 16, 1, 16), (4, 1, 1, 1), (16, "auto", 1, 16)],
)  # fmt: skip
def test_the_left_factor_is_quantized_if_that_makes_it_smaller(
    bits: int, left_bits: int | str, rank: int, expected: int
) -> None:
    prompt = Prompt(config(rank, bits, low_rank={"left_bits": left_bits}), template(), seed=1)
    assert prompt.bits_of("left_MR") == expected
    assert prompt.bits_of("right_RD") == bits
    stored = prompt.store()
    assert stored.tensors["left_MR"].bits == expected


def test_a_codebook_per_row_costs_its_bytes() -> None:
    sizes = [
        Prompt(config(2, 1, quantizer={"codebooks": kind}), template(), 1).store().size_bytes
        for kind in ("tensor", "row")
    ]
    assert sizes == [1 + 4 + 2 * D // 8 + 4, 1 + 4 * M + 2 * D // 8 + 8]


@pytest.mark.parametrize("disturbance", [{"dropout": 0.5}, {"noise_std": 0.1}])
def test_training_is_disturbed_and_nothing_else_is(disturbance: dict[str, float]) -> None:
    def moved(seed: int, rank: int | str = "full") -> Prompt:
        prompt = Prompt(config(rank, **disturbance), template(), seed)
        with torch.no_grad():
            wide = prompt.factors["context_MD" if rank == "full" else "right_RD"]
            wide.copy_(torch.randn(wide.shape, generator=torch.Generator().manual_seed(5)))
        return prompt

    first, same, other = moved(1), moved(1), moved(2)
    seen = [first(), first(), same(), same(), other()]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[4])
    plain = merge(template(), {"context_MD": first.factors["context_MD"]})
    assert torch.equal(first.eval()(), plain)
    assert torch.equal(first.store().values()["context_MD"], plain.half().float())
    if "dropout" in disturbance:
        update = seen[0] - template()
        kept = update.abs() > 1e-9
        assert 0.3 < kept.float().mean() < 0.7
        torch.testing.assert_close(update[kept], 2 * (plain - template())[kept])
        low = moved(1, rank=1)
        assert not torch.equal(low(), low.eval()())
    else:
        torch.testing.assert_close((seen[0] - plain).std(), torch.tensor(0.1), rtol=0.3, atol=0)


def test_the_seed_fixes_the_start() -> None:
    left = [Prompt(config(2), template(), seed).factors["left_MR"] for seed in (1, 1, 2)]
    assert torch.equal(left[0], left[1])
    assert not torch.equal(left[0], left[2])


def test_a_quantized_context_is_made_of_few_values() -> None:
    prompt = Prompt(config(bits=2), template(), seed=1)
    assert len(prompt().unique()) <= 4
    factors = Prompt(config(2, bits=1), template(), seed=1)
    with torch.no_grad():
        factors.factors["right_RD"].normal_()
    update = factors() - template()
    assert torch.linalg.matrix_rank(update.double(), rtol=1e-5) <= 2
    assert all(len(value.unique()) <= 2 for value in factors.store().values().values())


def test_init_tokens_keep_the_end_of_the_template_next_to_the_name() -> None:
    words = [1, 2, 3, 4]
    assert init_tokens(words, 4) == [1, 2, 3, 4]
    assert init_tokens(words, 2) == [3, 4]
    assert init_tokens(words, 6) == [3, 4, 1, 2, 3, 4]
    for n_ctx in range(1, 12):
        assert len(init_tokens(words, n_ctx)) == n_ctx
        assert init_tokens(words, n_ctx)[-1] == 4


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 5.5}, {"bits": 9}, {"n_ctx": 0}, {"rank": -1}, {"dropout": 1}, {"drop": 0.1}],
)
def test_values_outside_the_family_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromptConfig(**{"init": "a", "rank": 1, "bits": 1, "n_ctx": 4, **wrong})
