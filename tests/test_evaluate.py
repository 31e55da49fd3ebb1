"""Refits are tested on the images that they are said to be tested on."""

from dataclasses import replace

import pytest
import torch
from conftest import train_config

from pipeline.backbone import Backbone
from pipeline.evaluate import (
    ZERO_SHOT,
    EvaluationJob,
    Fit,
    describe_data,
    held_out_domains,
    refit,
    zero_shot_row,
)
from pipeline.features import SPLITS, TaskFeatures
from pipeline.metrics import harmonic_mean
from pipeline.prompts import PromptConfig
from pipeline.run import TextSide, measure_prompts

FIT = Fit(
    "champion",
    "toy",
    PromptConfig(init="a photo of a", rank=1, bits=2, n_ctx=4),
    train_config(4, lr=0.1, rounds=2),
)
BASE, NEW = range(4), range(4, 8)


@pytest.fixture
def job(text: TextSide, features: TaskFeatures) -> EvaluationJob:
    return EvaluationJob(text, {"toy": features}, shots=2, seeds=[1, 2])


def test_rows_measure_the_stored_prompts(job: EvaluationJob) -> None:
    features = job.tasks["toy"]
    rows, prompts = refit(job, FIT)
    assert [row.seed for row in rows] == [1, 2]
    near, far = features.shot_domains, held_out_domains(features)
    assert (near, far) == (["flat", "round"], ["far"])
    for column, classes, domains in (
        ("base", BASE, near),
        ("new", NEW, near),
        ("held_out_base", BASE, far),
        ("held_out_new", NEW, far),
    ):
        expected = measure_prompts(job.text, features, prompts, "test", classes, domains)
        assert [getattr(row, column) for row in rows] == expected
    for row, prompt in zip(rows, prompts, strict=True):
        assert row.harmonic_mean == harmonic_mean(row.base, row.new)
        assert row.size_bytes == prompt.size_bytes
        assert row.n_parameters == 4 + 64
        assert row.seconds > 0


def test_validation_and_new_training_images_are_not_read(job: EvaluationJob) -> None:
    features = job.tasks["toy"]
    features_NE, views_NVE = features.features_NE.clone(), features.views_NVE.clone()
    features_NE[features.split_N != 2] = float("nan")
    views_NVE[torch.tensor(features.training_labels) >= 4] = float("nan")
    hidden = replace(features, features_NE=features_NE, views_NVE=views_NVE)
    clean, blind = (
        [replace(row, seconds=0.0) for row in refit(own, FIT)[0]]
        for own in (job, replace(job, tasks={"toy": hidden}))
    )
    assert clean == blind


def test_without_held_out_styles_there_is_no_such_number(job: EvaluationJob) -> None:
    features = job.tasks["toy"]
    near = replace(features, domain_N=features.domain_N.clamp(max=1), domains=("flat", "round"))
    rows, _ = refit(replace(job, tasks={"toy": near}), FIT)
    assert all(row.held_out_base is None and row.held_out_new is None for row in rows)
    assert zero_shot_row(near, torch.randn(8, 32)).held_out_new is None


def test_zero_shot_tells_each_half_apart(backbone: Backbone, features: TaskFeatures) -> None:
    captions = [features.template.format(name) for name in features.class_names]
    class_KE = backbone.encode_captions(captions)
    row = zero_shot_row(features, class_KE)
    image_NE, label_N = features.select("test", NEW, features.shot_domains)
    predicted_N = (image_NE @ class_KE[4:].T).argmax(dim=-1)
    assert row.new == pytest.approx(float((predicted_N == label_N).float().mean()))
    assert (row.method, row.seed, row.size_bytes, row.n_parameters) == (ZERO_SHOT, None, 0, 0)


def test_the_data_are_described_by_where_shots_come_from(features: TaskFeatures) -> None:
    found = describe_data(features)
    assert (found.shot_domains, found.held_out_domains) == (["flat", "round"], ["far"])
    assert (found.fewest, found.most) == (5, 5)
    split_N = features.split_N.clone()
    split_N[0] = SPLITS.index("test")  # a training image less of class 5
    one = replace(features, split_N=split_N, domain_N=features.domain_N * 0, domains=("all",))
    found = describe_data(one)
    assert (found.shot_domains, found.held_out_domains) == (["all"], [])
    assert (found.fewest, found.most) == (4, 5)
