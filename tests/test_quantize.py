"""Lloyd's algorithm in one dimension, and the straight-through quantizer."""

import pytest
import torch
from reference import lloyd_1d, squared_error

from pipeline.quantize import Quantizer, QuantizerConfig, kmeans_1d, nearest

EVERY_STEP = QuantizerConfig(interval=1)


def draw(seed: int, count: int = 60) -> torch.Tensor:
    """Return scalars with two bumps, float32."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator)
    return values + 3 * (torch.rand(count, generator=generator) < 0.3)


def start(size: int, seed: int) -> torch.Tensor:
    """Return sorted centroids to start from."""
    return draw(seed + 100, size).sort().values


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 4, 16])
def test_kmeans_is_lloyds_algorithm(size: int, seed: int) -> None:
    values, centroids = draw(seed), start(size, seed)
    expected = torch.tensor(lloyd_1d(values.tolist(), centroids.tolist()))
    torch.testing.assert_close(kmeans_1d(values, centroids), expected)


@pytest.mark.parametrize("seed", range(5))
def test_no_round_of_kmeans_raises_the_error(seed: int) -> None:
    values, centroids = draw(seed), start(8, seed)
    errors = [squared_error(values.tolist(), centroids.tolist())]
    for rounds in range(1, 8):
        found = kmeans_1d(values, centroids, max_rounds=rounds)
        errors.append(squared_error(values.tolist(), found.tolist()))
    slack = 1e-6 * errors[0]
    assert all(after <= before + slack for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 4, 256])
def test_the_result_of_kmeans_is_a_fixpoint(size: int, seed: int) -> None:
    values = draw(seed)
    found = kmeans_1d(values, start(size, seed))
    torch.testing.assert_close(kmeans_1d(values, found), found)
    codes = nearest(values, found)
    for code in codes.unique().tolist():
        torch.testing.assert_close(values[codes == code].mean(), found[code])
    assert found.diff().ge(0).all()


def test_ties_fall_into_the_same_cluster_in_kmeans_and_in_nearest() -> None:
    values = torch.tensor([0.0, 1.0, 2.0])
    found = kmeans_1d(values, torch.tensor([0.0, 2.0]), max_rounds=1)
    assert found.tolist() == [0.5, 2.0]
    assert nearest(values, torch.tensor([0.0, 2.0])).tolist() == [0, 0, 1]


def test_nearest_is_the_closest() -> None:
    values, centroids = draw(1), start(8, 1)
    distance = (values[:, None] - centroids).abs()
    chosen = distance.gather(1, nearest(values, centroids)[:, None])[:, 0]
    assert torch.equal(chosen, distance.min(dim=1).values)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_at_most_two_to_the_bits_values(bits: int) -> None:
    quantizer = Quantizer(bits, EVERY_STEP)
    weight = draw(bits, 4096).view(8, 512)
    quantized = quantizer(weight)
    codes, codebook = quantizer.codebook(weight)
    assert quantized.shape == weight.shape
    assert len(codes.unique()) <= len(codebook) == 2**bits
    torch.testing.assert_close(quantized, codebook[codes])


def test_more_bits_err_less() -> None:
    weight = draw(0, 512)
    errors = [
        float((Quantizer(bits, EVERY_STEP)(weight) - weight).square().sum())
        for bits in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


def test_the_gradient_is_the_identity() -> None:
    weight = draw(2).requires_grad_()
    upstream = draw(3)
    (Quantizer(2, EVERY_STEP)(weight) * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)


def test_shift_and_scale_pass_through() -> None:
    weight = draw(4)
    plain, moved = Quantizer(2, EVERY_STEP)(weight), Quantizer(2, EVERY_STEP)(5 * weight - 3)
    torch.testing.assert_close(moved, 5 * plain - 3, rtol=1e-4, atol=1e-4)


def test_a_constant_is_kept() -> None:
    for value in (0.0, 2.5):
        weight = torch.full((4, 8), value)
        for bits in (1, 2, 8):
            torch.testing.assert_close(Quantizer(bits, EVERY_STEP)(weight), weight)


def test_the_codebook_moves_early_then_at_intervals_and_never_in_evaluation() -> None:
    quantizer = Quantizer(2, QuantizerConfig(interval=3))
    moved = []
    for step in range(9):
        before = quantizer.centroids_C.clone()
        quantizer(draw(step))
        moved.append(not torch.equal(before, quantizer.centroids_C))
    assert moved == [True, True, True, True, False, False, True, False, False]
    quantizer.eval()
    before = quantizer.centroids_C.clone()
    quantizer(draw(99))
    assert torch.equal(before, quantizer.centroids_C)
