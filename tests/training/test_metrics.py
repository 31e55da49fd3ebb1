"""Accuracies and their means."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.clip.similarity import accuracy, logits
from pipeline.core.device import set_deterministic
from pipeline.training.metrics import harmonic_mean, mean_and_spread


def test_harmonic_mean_identities() -> None:
    generator = torch.Generator().manual_seed(0)
    for base, new in torch.rand(50, 2, generator=generator).tolist():
        found = harmonic_mean(base, new)
        assert found == harmonic_mean(new, base)
        assert found == pytest.approx(1 / ((1 / base + 1 / new) / 2))
        assert min(base, new) <= found <= math.sqrt(base * new) + 1e-12 <= (base + new) / 2 + 1e-11
        assert harmonic_mean(base, base) == pytest.approx(base)
        assert harmonic_mean(3 * base, 3 * new) == pytest.approx(3 * found)
        assert harmonic_mean(base, 0.0) == 0.0
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(80.68, 74.44) == pytest.approx(77.43, abs=0.005)  # QCoOp, published


def test_accuracy_counts_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    image_NE = F.normalize(torch.randn(40, 8, generator=generator), dim=-1)
    class_KE = torch.randn(5, 8, generator=generator) * torch.tensor([0.1, 1, 5, 20, 3])[:, None]
    label_N = torch.randint(5, (40,), generator=generator)
    right = 0
    for image_E, label in zip(image_NE, label_N.tolist(), strict=True):
        cosines = [float(F.cosine_similarity(image_E, class_E, dim=0)) for class_E in class_KE]
        right += cosines.index(max(cosines)) == label
    assert accuracy(image_NE, class_KE, label_N) == right / 40


def test_accuracy_of_no_images_is_nan() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert math.isnan(accuracy(torch.zeros(0, 8), torch.ones(2, 8), nothing))


def test_logits_are_scaled_cosines() -> None:
    image_NE, class_KE = F.normalize(torch.randn(6, 8), dim=-1), 7 * torch.randn(3, 8)
    expected = 10 * F.cosine_similarity(image_NE[:, None], class_KE[None], dim=-1)
    torch.testing.assert_close(logits(image_NE, class_KE, 10.0), expected)
    torch.testing.assert_close(
        logits(image_NE.expand(2, 6, 8), class_KE.expand(2, 3, 8), 10.0), expected.expand(2, 6, 3)
    )


def test_spread_is_the_sample_deviation() -> None:
    mean, spread = mean_and_spread([1.0, 2.0, 4.0])
    assert (mean, spread) == pytest.approx((7 / 3, float(torch.tensor([1.0, 2.0, 4.0]).std())))
    assert mean_and_spread([0.5]) == (0.5, 0.0)


def test_set_deterministic_keeps_the_threads_it_is_not_told_to_change() -> None:
    before = torch.get_num_threads()
    try:
        set_deterministic()
        assert torch.get_num_threads() == before
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
