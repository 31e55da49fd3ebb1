"""k-means in one dimension, against brute force and against Lloyd's algorithm value by value."""

import pytest
import torch

from pipeline.prompts import kmeans
from pipeline.prompts.kmeans import cluster, exact_kmeans, lloyd, nearest
from tests.helpers.reference import best_clustering, lloyd_1d, squared_error


def draw(seed: int, count: int = 60) -> torch.Tensor:
    """Return scalars with two bumps, float32."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator)
    return values + 3 * (torch.rand(count, generator=generator) < 0.3)


def start(size: int, seed: int) -> torch.Tensor:
    """Return sorted centroids to start from."""
    return draw(seed + 100, size).sort().values


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_exact_is_brute_force(size: int, seed: int) -> None:
    values = draw(seed, 11)
    found = exact_kmeans(values, size)
    expected = best_clustering(values.tolist(), size)
    assert squared_error(values.tolist(), found.tolist()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [2, 4, 16])
def test_exact_is_a_fixpoint_and_never_above_lloyd(size: int, seed: int) -> None:
    values = draw(seed, 500)
    best = exact_kmeans(values, size)
    torch.testing.assert_close(lloyd(values, best), best)
    errors = [
        squared_error(values.tolist(), centroids.tolist())
        for centroids in (best, lloyd(values, start(size, seed)))
    ]
    assert errors[0] <= errors[1] * (1 + 1e-6)


def test_with_few_values_every_one_has_its_centroid() -> None:
    values = torch.tensor([2.0, -1.0, 2.0, 0.5])
    found = exact_kmeans(values, 8)
    assert found.diff().ge(0).all()
    assert torch.equal(found[nearest(values.double(), found)], values.double())
    assert exact_kmeans(torch.full((9,), 3.0), 4).tolist() == [3.0] * 4


def test_large_values_are_clustered_by_lloyd(monkeypatch: pytest.MonkeyPatch) -> None:
    values, centroids = draw(0, 40), start(4, 0)
    assert torch.equal(cluster(values, centroids), exact_kmeans(values, 4).float())
    for limit in ("MAX_EXACT", "MAX_WORK"):
        with monkeypatch.context() as patch:
            patch.setattr(kmeans, limit, 30)
            assert torch.equal(cluster(values, centroids), lloyd(values, centroids))
            assert torch.equal(cluster(values, centroids[:2]), exact_kmeans(values, 2).float())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 4, 16])
def test_lloyd_is_lloyds_algorithm(size: int, seed: int) -> None:
    values, centroids = draw(seed), start(size, seed)
    expected = torch.tensor(lloyd_1d(values.tolist(), centroids.tolist()))
    torch.testing.assert_close(lloyd(values, centroids), expected)


@pytest.mark.parametrize("seed", range(5))
def test_no_round_of_lloyd_raises_the_error(seed: int) -> None:
    values, centroids = draw(seed), start(8, seed)
    errors = [squared_error(values.tolist(), centroids.tolist())]
    for rounds in range(1, 8):
        found = lloyd(values, centroids, max_rounds=rounds)
        errors.append(squared_error(values.tolist(), found.tolist()))
    slack = 1e-6 * errors[0]
    assert all(after <= before + slack for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 4, 256])
def test_the_result_of_lloyd_is_a_fixpoint(size: int, seed: int) -> None:
    values = draw(seed)
    found = lloyd(values, start(size, seed))
    torch.testing.assert_close(lloyd(values, found), found)
    codes = nearest(values, found)
    for code in codes.unique().tolist():
        torch.testing.assert_close(values[codes == code].mean(), found[code])
    assert found.diff().ge(0).all()


def test_ties_fall_into_the_same_cluster_in_lloyd_and_in_nearest() -> None:
    values = torch.tensor([0.0, 1.0, 2.0])
    found = lloyd(values, torch.tensor([0.0, 2.0]), max_rounds=1)
    assert found.tolist() == [0.5, 2.0]
    assert nearest(values, torch.tensor([0.0, 2.0])).tolist() == [0, 0, 1]


def test_nearest_is_the_closest() -> None:
    values, centroids = draw(1), start(8, 1)
    distance = (values[:, None] - centroids).abs()
    chosen = distance.gather(1, nearest(values, centroids)[:, None])[:, 0]
    assert torch.equal(chosen, distance.min(dim=1).values)
