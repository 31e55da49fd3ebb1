"""The public sampling rule and the split of classes."""

import math
import random

import pytest

from pipeline.data.classes import split_base_new
from pipeline.data.sampling import Draws, draw_shots, draw_train_val
from tests.helpers.reference import sample_shots, sample_train_and_val


@pytest.mark.parametrize("n_classes", range(1, 12))
def test_base_is_the_first_half_rounded_up(n_classes: int) -> None:
    labels = list(range(n_classes)) * 3
    random.Random(0).shuffle(labels)
    base, new = split_base_new(labels)
    assert base == list(range(math.ceil(n_classes / 2)))
    assert base + new == list(range(n_classes))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 16])
def test_shots_follow_the_public_rule(shots: int, seed: int) -> None:
    labels = random.Random(10).choices(range(7), weights=[1, 2, 3, 4, 5, 6, 20], k=80)
    drawn = draw_shots(labels, shots, random.Random(seed))
    assert drawn == sample_shots(labels, shots, seed)
    assert len(set(drawn)) == len(drawn)
    for label in range(7):
        available = labels.count(label)
        assert sum(labels[i] == label for i in drawn) == min(shots, available)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_validation_continues_the_stream_of_train(shots: int, seed: int) -> None:
    shuffled = random.Random(20)
    train_labels = shuffled.choices(range(6), weights=[1, 2, 3, 9, 9, 20], k=90)
    val_labels = shuffled.choices(range(6), weights=[9, 1, 1, 3, 9, 9], k=40)
    train, val = draw_train_val(train_labels, val_labels, shots, seed)
    assert (train, val) == sample_train_and_val(train_labels, val_labels, shots, seed)
    assert train == sample_shots(train_labels, shots, seed), "train is drawn first"
    assert len(set(val)) == len(val)
    for label in set(val_labels):
        wanted = min(shots, 4, val_labels.count(label))
        assert sum(val_labels[i] == label for i in val) == wanted


@pytest.mark.parametrize("seeds", [(), (3,), (1, 2, 1)])
def test_the_union_of_draws_is_what_some_seed_draws(seeds: tuple[int, ...]) -> None:
    labels = random.Random(11).choices(range(5), k=60)
    found = Draws(seeds, (4,)).union(labels)
    assert found == sorted({i for seed in seeds for i in sample_shots(labels, 4, seed)})
