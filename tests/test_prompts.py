"""One family: what starts where, what trains, and what rank it has."""

import pytest
import torch
from pydantic import ValidationError

from pipeline.prompts import Prompt, PromptConfig, init_tokens, low_rank_context

M, D = 4, 24


def config(rank: int | str = "full", bits: int = 16, n_ctx: int = M) -> PromptConfig:
    """Return a point of the family."""
    return PromptConfig(init="a photo of a", rank=rank, bits=bits, n_ctx=n_ctx)


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
    with pytest.raises(ValueError, match=f"rank {rank}: allowed are 1 to .* = 4"):
        low_rank_context(template(), torch.zeros(M, rank), torch.zeros(rank, D))
    with pytest.raises(ValueError, match=f"rank {rank}"):
        Prompt(config(rank), template(), seed=1)
    assert f"rank {rank}" in config(rank).infeasible()


def test_ranks_that_fit_are_feasible() -> None:
    assert all(config(rank).infeasible() is None for rank in (1, M, "full"))


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


@pytest.mark.parametrize("wrong", [{"bits": 5.5}, {"bits": 9}, {"n_ctx": 0}, {"dropout": 0.1}])
def test_values_outside_the_family_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromptConfig(**{"init": "a", "rank": 1, "bits": 1, "n_ctx": 4, **wrong})
