"""The residual network: nothing at the start, folded at the end."""

import itertools

import pytest
import torch

from pipeline.prompts.config import PromptConfig, ResidualConfig
from pipeline.prompts.context import merge
from pipeline.prompts.prompt import Prompt
from pipeline.prompts.residual import Residual

M, D, H = 4, 24, 6
KINDS = list(itertools.product([True, False], [True, False]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def away(module: torch.nn.Module) -> torch.nn.Module:
    """Move all parameters away from their start."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator(seed)))
    return module


@pytest.mark.parametrize(("shared", "layer_norm"), KINDS)
def test_at_the_start_it_adds_nothing_and_every_part_can_learn(
    shared: bool, layer_norm: bool
) -> None:
    config = ResidualConfig(hidden=H, shared=shared, layer_norm=layer_norm)
    module, rows_MD = Residual(config, torch.zeros(M, D), generator()), torch.randn(M, D)
    assert torch.equal(module(rows_MD), rows_MD)
    away(module)(rows_MD).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(("shared", "layer_norm"), KINDS)
def test_it_is_the_formula_row_by_row(shared: bool, layer_norm: bool) -> None:
    config = ResidualConfig(hidden=H, shared=shared, layer_norm=layer_norm)
    anchor_MD, rows_MD = torch.randn(M, D), torch.randn(M, D)
    module = away(Residual(config, anchor_MD, generator()))
    for m, row_D in enumerate(rows_MD):
        n = 0 if shared else m
        hidden_H = torch.relu(module.down_XDH[n].T @ (row_D + anchor_MD[m]))
        added_D = module.up_XHD[n].T @ hidden_H
        if layer_norm:
            deviation_D = added_D - added_D.mean()
            normal_D = deviation_D / (deviation_D.square().mean() + 1e-5).sqrt()
            added_D = normal_D * module.gain_XD[n] + module.shift_XD[n]
        torch.testing.assert_close(module(rows_MD)[m], row_D + added_D, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shared", "layer_norm"), KINDS)
def test_parameters_are_counted_as_in_the_paper(shared: bool, layer_norm: bool) -> None:
    config = ResidualConfig(hidden=H, shared=shared, layer_norm=layer_norm)
    prompt = Prompt(
        PromptConfig(init="a", rank="full", bits=16, n_ctx=M, residual=config), torch.randn(M, D), 1
    )
    one = 2 * D * H + (2 * D if layer_norm else 0)
    assert sum(p.numel() for p in prompt.parameters()) == M * D + one * (1 if shared else M)


@pytest.mark.parametrize("bits", [1, 4, 16])
@pytest.mark.parametrize("rank", ["full", 1, 2])
@pytest.mark.parametrize(("shared", "layer_norm"), KINDS)
def test_the_folded_prompt_is_the_same_context(
    rank: int | str, bits: int, shared: bool, layer_norm: bool
) -> None:
    residual = ResidualConfig(hidden=H, shared=shared, layer_norm=layer_norm)
    config = PromptConfig(init="a", rank=rank, bits=bits, n_ctx=M, residual=residual)
    init_MD = torch.randn(M, D)
    prompt = Prompt(config, init_MD, seed=1)
    assert torch.equal(Prompt(config, init_MD, seed=1).eval()(), prompt.eval()())
    away(prompt.train())
    prompt()
    stored = prompt.eval().store()
    plain = Prompt(config.model_copy(update={"residual": ResidualConfig()}), init_MD, 1).store()
    assert stored.size_bytes == plain.size_bytes, "the network is gone"
    folded = merge(init_MD, stored.values())
    largest = max(value.abs().max().item() for value in prompt.values().values())
    half = 2.0**-10 * (1 + M) * max(1.0, largest) ** 2  # factors are stored in half precision
    torch.testing.assert_close(folded, prompt(), rtol=0, atol=half)
    residual_free = Prompt(config.model_copy(update={"residual": ResidualConfig()}), init_MD, 1)
    with torch.no_grad():
        for name, value in prompt.folded().items():
            residual_free.factors[name].copy_(value)
    if bits == 16:
        assert torch.equal(residual_free.eval()(), prompt()), "identical, not only close"


def test_with_low_rank_factors_it_reads_the_template() -> None:
    """The right factor starts at zero, which alone would leave the network dead."""
    config = PromptConfig(init="a", rank=2, bits=16, n_ctx=M, residual=ResidualConfig(hidden=H))
    prompt = Prompt(config, torch.randn(M, D), seed=1)
    assert torch.equal(prompt(), prompt.init_MD)
    with torch.no_grad():
        prompt.residuals["right_RD"].gain_XD.fill_(1.0)
    prompt().square().sum().backward()
    assert prompt.residuals["right_RD"].down_XDH.grad.abs().sum() > 0
