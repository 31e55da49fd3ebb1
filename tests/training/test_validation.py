"""Validation images: those that the public rule draws, and none that is trained on or tested."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from pipeline.clip.encoders import TextSide
from pipeline.data.manifest import SPLITS
from pipeline.data.sampling import Draws, draw_train_rest
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.training.task_run import Point, TaskRun, draw_images
from pipeline.training.trial import Trial
from pipeline.training.validation import check_validation, validation_rows
from tests.helpers.reference import sample_train_and_val
from tests.helpers.toy import train_config

SEEDS = (1, 2, 3)


@pytest.fixture
def no_val(features: TaskFeatures) -> TaskFeatures:
    """A task as ImageNet is: the validation images are gone."""
    keep_N = features.split_N != SPLITS.index("val")
    return replace(
        features,
        name="imagenet",
        features_NE=features.features_NE[keep_N],
        row_N=features.row_N[keep_N],
        label_N=features.label_N[keep_N],
        split_N=features.split_N[keep_N],
        domain_N=features.domain_N[keep_N],
    )


def test_all_is_the_whole_split_for_every_seed(features: TaskFeatures) -> None:
    for seed in SEEDS:
        row_V = validation_rows(features, 2, seed, "all")
        assert torch.equal(row_V, (features.split_N == SPLITS.index("val")).nonzero()[:, 0])


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_drawn_are_those_of_the_public_rule(features: TaskFeatures, seed: int, shots: int) -> None:
    val_V = (features.split_N == SPLITS.index("val")).nonzero()[:, 0]
    labels = features.label_N[val_V].tolist()
    _, expected = sample_train_and_val(features.training_labels, labels, shots, seed)
    found = validation_rows(features, shots, seed, "drawn")
    assert found.tolist() == sorted(val_V[expected].tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_rest_shares_no_image_with_train(seed: int) -> None:
    labels = [0] * 9 + [1] * 3 + [2] * 2 + [3] * 5
    train, rest = draw_train_rest(labels, 2, seed)
    assert not set(train) & set(rest)
    assert Counter(labels[i] for i in rest) == {0: 2, 1: 1, 3: 2}, "two of a class at most"
    assert train == draw_train_rest(labels, 2, seed)[0]
    whole = Draws(SEEDS, (2,), [(seed, 2)]).union(labels, has_val=False)
    assert {*train, *rest} <= set(whole)
    assert whole != Draws(SEEDS, (2,), [(seed, 2)]).union(labels)


@pytest.mark.parametrize("rule", ["all", "drawn"])
def test_without_a_split_training_images_that_are_not_trained_on(
    no_val: TaskFeatures, rule: str
) -> None:
    classes = range(len(no_val.class_names))
    train_N = (no_val.split_N == SPLITS.index("train")).nonzero()[:, 0]
    for seed in SEEDS:
        row_V = validation_rows(no_val, 1, seed, rule)  # type: ignore[arg-type]  # parametrized
        trained = train_N[draw_images(no_val, classes, 1, seed)]
        assert set(no_val.split_N[row_V].tolist()) == {SPLITS.index("train")}
        assert not set(row_V.tolist()) & set(trained.tolist())
        assert set(no_val.label_N[row_V].tolist()) == set(classes)
    check_validation([no_val], 1, SEEDS, "all")


def test_too_many_shots_leave_nothing_to_validate_on(
    features: TaskFeatures, no_val: TaskFeatures
) -> None:
    most = max(Counter(no_val.training_labels).values())
    with pytest.raises(ValueError, match="without validation images") as caught:
        check_validation([features, no_val], most, SEEDS, "all")
    assert "imagenet: seed 1 leaves none of cat, red apple" in str(caught.value)
    assert "toy" not in str(caught.value)


def test_an_image_that_is_not_encoded_is_told(no_val: TaskFeatures) -> None:
    less = replace(no_val, train_index_T=torch.full_like(no_val.train_index_T, -1))
    with pytest.raises(ValueError, match=r"seed 1 takes for validation at 1 shots.*repro features"):
        validation_rows(less, 1, 1, "all")


def test_every_seed_of_a_trial_is_measured_on_its_own_images(
    text: TextSide, features: TaskFeatures
) -> None:
    prompt, train = PromptConfig(init="a photo of a", rank=1, bits=16, n_ctx=4), train_config(4)
    points = [Point(prompt, train.lr, seed) for seed in SEEDS]
    run = TaskRun(text, features, points, train, range(4), shots=1)
    run.fit.run_round()
    together = run.validate(range(4), "drawn")
    for place, seed in enumerate(SEEDS):
        keep_N = torch.ones_like(features.split_N, dtype=torch.bool)
        keep_N[features.split_N == SPLITS.index("val")] = False
        keep_N[validation_rows(features, 1, seed, "drawn")] = True
        hidden = features.features_NE.masked_fill(~keep_N[:, None], float("nan"))
        alone = TaskRun(text, replace(features, features_NE=hidden), [points[place]], train,
                        range(4), shots=1)  # fmt: skip
        alone.fit.run_round()
        assert together[place] == pytest.approx(alone.validate(range(4), "drawn")[0])


def test_a_task_without_validation_images_can_be_swept(
    text: TextSide, no_val: TaskFeatures
) -> None:
    prompt, train = PromptConfig(init="a photo of a", rank=1, bits=1, n_ctx=4), train_config(4)
    trial = Trial(text, [no_val], prompt, train, shots=1, seeds=SEEDS)
    measured = trial.run_round()
    assert 0 <= measured["score"] <= 1
