"""A frozen layer is `F.linear`, however its weights are kept."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.clip import frozen_linear
from pipeline.clip.frozen_linear import FrozenLinear

RELATIVE = 1e-5  # float32
HALF = 1e-2  # bfloat16 keeps eight bits: 2^-9 of each factor, of the sum, of the bias
N_IN, N_OUT = 24, 40
INPUTS: dict[str, Callable[[], Tensor]] = {
    "vector": lambda: torch.randn(N_IN),
    "row": lambda: torch.randn(1, N_IN),
    "rows": lambda: torch.randn(7, N_IN),
    "3-D": lambda: torch.randn(3, 5, N_IN),
    "4-D": lambda: torch.randn(2, 3, 4, N_IN),
    "transposed": lambda: torch.randn(N_IN, 7).t(),
    "permuted": lambda: torch.randn(5, 3, N_IN).transpose(0, 1),
    "strided": lambda: torch.randn(3, 5, 2 * N_IN)[:, ::2, ::2],
    "expanded": lambda: torch.randn(1, 5, N_IN).expand(3, -1, -1),
}


def weights(bias: bool, n_in: int = N_IN, n_out: int = N_OUT) -> tuple[Tensor, Tensor | None]:
    """Return what makes a layer."""
    return torch.randn(n_out, n_in), torch.randn(n_out) if bias else None


def with_gradient(
    layer: FrozenLinear | None, x: Tensor, own: tuple[Tensor, Tensor | None]
) -> list[Tensor]:
    """Return values and input gradients; without a layer those of `F.linear`."""
    x = x.detach().requires_grad_()
    out = F.linear(x, *own) if layer is None else layer(x)
    factor = torch.arange(out.numel(), dtype=torch.float32).sin().view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * factor).sum(), x)]


def close(found: list[Tensor], expected: list[Tensor], relative: float) -> bool:
    """Return whether values and gradients agree, relative to the largest."""
    return all(
        a.shape == b.shape and (a - b).abs().max() <= relative * b.abs().max()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("packs", [frozen_linear.PACKS, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
def test_it_is_the_plain_product(
    kind: str, bias: bool, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_linear, "PACKS", packs)
    own, x = weights(bias), INPUTS[kind]()
    layer = FrozenLinear(*own)
    expected = with_gradient(None, x, own)
    for _ in range(2):  # the second time with what the first has prepared
        assert close(with_gradient(layer, x, own), expected, RELATIVE)


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (3, 5), (64, 192), (33, 7)])
def test_odd_sizes(n_in: int, n_out: int) -> None:
    own, x = weights(True, n_in, n_out), torch.randn(4, 6, n_in)
    assert close(with_gradient(FrozenLinear(*own), x, own), with_gradient(None, x, own), RELATIVE)


def test_gradients_that_are_not_contiguous() -> None:
    own, x = weights(True), torch.randn(6, N_IN)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    FrozenLinear(*own)(found).t().sum().backward()
    F.linear(expected, *own).sum().backward()
    assert close([found.grad], [expected.grad], RELATIVE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
def test_autocast_gives_bfloat16(kind: str, bias: bool) -> None:
    own, x = weights(bias), INPUTS[kind]()
    layer = FrozenLinear(*own)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradient(layer, x, own)
    assert found[0].dtype == torch.bfloat16
    assert found[1].dtype == torch.float32
    assert close([part.float() for part in found], with_gradient(None, x, own), HALF)
    assert layer(x).dtype == torch.float32


def test_nothing_of_it_trains_and_nothing_is_copied() -> None:
    own = weights(True)
    trained = torch.nn.Parameter(own[0])
    layer = FrozenLinear(trained, own[1])
    layer(torch.randn(3, N_IN, requires_grad=True)).sum().backward()
    assert trained.grad is None
    assert all(not p.requires_grad and p.grad is None for p in layer.parameters())
    assert layer.weight.data_ptr() == own[0].data_ptr()
    with torch.no_grad():
        assert not layer(torch.randn(3, N_IN)).requires_grad


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_prepared_weights_stay_behind(again: Callable[[FrozenLinear], FrozenLinear]) -> None:
    own, x = weights(True, 256, 128), torch.randn(3, 256)
    layer = FrozenLinear(*own)
    untouched = len(pickle.dumps(layer))
    assert untouched < own[0].nbytes + own[1].nbytes + 4096
    before = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        before_half = layer(x)
    assert len(pickle.dumps(layer)) == untouched
    other = again(layer)
    assert torch.equal(other(x), before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(other(x), before_half)
    assert torch.equal(layer(x), before), "the first one keeps its own"
