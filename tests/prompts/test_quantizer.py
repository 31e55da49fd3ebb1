"""The quantizer: few values, straight-through gradients, and codebooks that move when due."""

import pytest
import torch

from pipeline.prompts.config import QuantizerConfig
from pipeline.prompts.quantizer import Quantizer, code_shift, quantized_bytes
from tests.helpers.reference import squared_error
from tests.prompts.test_kmeans import draw

EVERY_STEP = QuantizerConfig(interval=1, kl_threshold=0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("config", [EVERY_STEP, EVERY_STEP.model_copy(update={"normalize": False})])
def test_at_most_two_to_the_bits_values(bits: int, config: QuantizerConfig) -> None:
    quantizer = Quantizer(bits, config)
    weight = draw(bits, 4096).view(8, 512)
    quantized = quantizer(weight)
    codes, codebook_GC = quantizer.codebook(weight)
    assert quantized.shape == weight.shape
    assert codebook_GC.shape == (1, 2**bits)
    assert len(codes.unique()) <= 2**bits
    torch.testing.assert_close(quantized, codebook_GC[0][codes])


def test_more_bits_err_less_and_many_not_at_all() -> None:
    weight = draw(0, 512)
    errors = [
        float((Quantizer(bits, EVERY_STEP)(weight) - weight).square().sum())
        for bits in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10_000
    small = weight[:200]
    torch.testing.assert_close(Quantizer(8, EVERY_STEP)(small), small)


@pytest.mark.parametrize("bits", [1, 2])
def test_the_rounding_is_the_best_there_is(bits: int) -> None:
    weight = draw(5, 300)
    quantized = Quantizer(bits, EVERY_STEP)(weight)
    for seed in range(20):
        other = draw(seed + 50, 2**bits)
        error = squared_error(weight.tolist(), other.tolist())
        assert float((quantized - weight).square().sum()) <= error * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["qat", "ptq"])
def test_the_gradient_is_the_identity(mode: str) -> None:
    weight = draw(2).requires_grad_()
    upstream = draw(3)
    (Quantizer(2, QuantizerConfig(mode=mode))(weight) * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)


def test_shift_and_scale_pass_through() -> None:
    weight = draw(4)
    plain, moved = Quantizer(2, EVERY_STEP)(weight), Quantizer(2, EVERY_STEP)(5 * weight - 3)
    torch.testing.assert_close(moved, 5 * plain - 3, rtol=1e-4, atol=1e-4)


def test_a_normalized_codebook_moves_with_the_weights_and_a_plain_one_does_not() -> None:
    weight = draw(4)
    for normalize in (True, False):
        quantizer = Quantizer(2, QuantizerConfig(interval=1000, normalize=normalize))
        first = quantizer(weight)
        moved = quantizer(5 * weight - 3)
        torch.testing.assert_close(quantizer(weight), first)
        follows = torch.allclose(moved, 5 * first - 3, rtol=1e-4, atol=1e-4)
        assert follows == normalize


@pytest.mark.parametrize("normalize", [True, False])
def test_a_constant_is_kept_and_its_first_change_brings_a_codebook(normalize: bool) -> None:
    for value in (0.0, 2.5):
        weight = torch.full((4, 8), value)
        for bits in (1, 2, 8):
            quantizer = Quantizer(bits, QuantizerConfig(interval=1000, normalize=normalize))
            assert torch.equal(quantizer(weight), weight)
            codes, codebook_GC = quantizer.codebook(weight)
            torch.testing.assert_close(codebook_GC[0][codes], weight)
            changed = weight + draw(bits, 32).view(4, 8)
            fresh = Quantizer(bits, EVERY_STEP)(changed)
            torch.testing.assert_close(quantizer(changed), fresh)


def test_each_row_has_a_codebook_of_its_own() -> None:
    weight = draw(1, 90).view(3, 30) * torch.tensor([[1.0], [10.0], [100.0]])
    rows = Quantizer(1, EVERY_STEP.model_copy(update={"codebooks": "row"}), n_rows=3)
    found = rows(weight)
    for row, expected in zip(found, weight, strict=True):
        torch.testing.assert_close(row, Quantizer(1, EVERY_STEP)(expected))
    codes, codebook_GC = rows.codebook(weight)
    assert codebook_GC.shape == (3, 2)
    torch.testing.assert_close(codebook_GC.gather(1, codes), found)


def moves(config: QuantizerConfig, weights: list[torch.Tensor]) -> list[int]:
    """Return the steps at which the codebook changes."""
    quantizer, found = Quantizer(2, config), []
    for step, weight in enumerate(weights):
        before = quantizer.centroids_GC.clone()
        quantizer(weight)
        if not torch.equal(before, quantizer.centroids_GC):
            found.append(step)
    return found


@pytest.mark.parametrize("interval", [1, 3, 7])
@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.1])
def test_the_codebook_never_moves_before_its_interval(interval: int, threshold: float) -> None:
    config = QuantizerConfig(interval=interval, kl_threshold=threshold)
    found = moves(config, [draw(step) for step in range(40)])
    assert found[0] == 0
    gaps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert all(gap >= interval for gap in gaps)
    if threshold == 0:
        assert set(gaps) == {interval}


def test_the_codebook_waits_until_the_codes_have_moved() -> None:
    still, moved = draw(0), draw(0) ** 3
    config = QuantizerConfig(interval=3, kl_threshold=0.05)
    assert moves(config, [still] * 20) == [0]
    assert moves(config, [still] * 7 + [moved] * 5) == [0, 7]
    assert moves(config, [still] * 2 + [moved] * 5) == [0, 3]


def test_code_shift_is_the_divergence() -> None:
    before, now = torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    p, q = [5 / 6, 1 / 6], [1 / 6, 5 / 6]
    expected = sum(a * torch.log(torch.tensor(a / b)) for a, b in zip(p, q, strict=True))
    assert code_shift(before, now).item() == pytest.approx(float(expected))
    assert code_shift(before, before).item() == 0


def test_in_evaluation_the_codebook_rests() -> None:
    quantizer = Quantizer(2, EVERY_STEP)
    quantizer(draw(1))
    quantizer.eval()
    before = quantizer.centroids_GC.clone()
    quantizer(draw(99))
    assert torch.equal(before, quantizer.centroids_GC)


def test_after_training_means_after_training() -> None:
    quantizer = Quantizer(1, QuantizerConfig(mode="ptq"))
    weight = draw(7)
    assert torch.equal(quantizer(weight), weight)
    quantizer.eval()
    assert len(quantizer(weight).unique()) == 2
    torch.testing.assert_close(quantizer(weight), Quantizer(1, EVERY_STEP)(weight))


def test_quantized_bytes_are_codes_and_half_precision_codebooks() -> None:
    assert quantized_bytes(512, 1) == 64 + 4
    assert quantized_bytes(2048, 1) == 256 + 4
    assert quantized_bytes(5, 3, n_codebooks=2) == 2 + 32
