"""Refits are tested on the images that they are said to be tested on."""

from dataclasses import replace

import pytest
import torch

from pipeline.clip.backbone import Backbone
from pipeline.clip.encoders import TextSide
from pipeline.data.manifest import SPLITS
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.training.config import ProtocolConfig
from pipeline.training.metrics import harmonic_mean
from pipeline.training.protocols import held_out_domains
from pipeline.training.refit import (
    BASE_TO_NEW,
    ZERO_SHOT,
    EvaluationJob,
    Fit,
    base_to_new_rows,
    describe_data,
    measure_zero_shot,
    refit,
    zero_shot_row,
)
from pipeline.training.task_run import measure_prompts
from tests.helpers.toy import train_config

FIT = Fit(
    "champion",
    "toy",
    2,
    PromptConfig(init="a photo of a", rank=1, bits=2, n_ctx=4),
    train_config(4, lr=0.1, rounds=2),
    seeds=(1, 2),
)
BASE, NEW = range(4), range(4, 8)


@pytest.fixture
def job(text: TextSide, features: TaskFeatures) -> EvaluationJob:
    return EvaluationJob(text, {"toy": features}, BASE_TO_NEW)


def test_rows_measure_the_stored_prompts(job: EvaluationJob) -> None:
    features = job.tasks["toy"]
    found, prompts = refit(job, FIT)
    rows = base_to_new_rows(found)
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
        [replace(one, seconds=0.0) for one in refit(own, FIT)[0]]
        for own in (job, replace(job, tasks={"toy": hidden}))
    )
    assert clean == blind


def test_without_held_out_styles_there_is_no_such_number(job: EvaluationJob) -> None:
    features = job.tasks["toy"]
    near = replace(features, domain_N=features.domain_N.clamp(max=1), domains=("flat", "round"))
    rows = base_to_new_rows(refit(replace(job, tasks={"toy": near}), FIT)[0])
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


def test_prompts_of_one_task_are_tested_on_the_names_of_others(
    backbone: Backbone, job: EvaluationJob
) -> None:
    """Cross-data-set transfer: another task's classes, in another order, with other images."""
    features = job.tasks["toy"]
    order = [7, 3, 0, 5]
    row_n, label_n = features.rows("test", order, features.shot_domains)
    other = replace(
        features,
        name="other",
        class_names=tuple(features.class_names[label] for label in order),
        features_NE=features.features_NE[row_n],
        label_N=label_n,
        split_N=features.split_N[row_n],
        domain_N=features.domain_N[row_n],
    )
    protocol = ProtocolConfig(train="all", test="tasks", source="toy")
    both = replace(job, protocol=protocol, tasks={"toy": features, "other": other})
    found, prompts = refit(both, FIT)
    assert [(one.source, one.target) for one in found] == [("toy", "toy")] * 2 + [
        ("toy", "other")
    ] * 2
    expected = measure_prompts(job.text, features, prompts, "test", order, features.shot_domains)
    assert [one.accuracy for one in found if one.target == "other"] == expected
    captions = {
        name: backbone.encode_captions([f"a photo of a {c}." for c in task.class_names])
        for name, task in both.tasks.items()
    }
    zero = measure_zero_shot(protocol, both.tasks, "toy", captions)
    assert [(one.target, one.side, one.seed) for one in zero] == [
        ("toy", "all", None),
        ("other", "all", None),
    ]


def test_all_classes_are_trained_where_the_protocol_says_so(job: EvaluationJob) -> None:
    few = replace(job, protocol=ProtocolConfig(train="all", test="all", shots=[1, 2]))
    seen = []
    for shots in (1, 2):
        found, _ = refit(few, replace(FIT, shots=shots))
        assert {(one.shots, one.side, one.target) for one in found} == {(shots, "all", "toy")}
        seen.append([one.accuracy for one in found])
    features = job.tasks["toy"]
    hidden = features.views_NVE.clone()
    hidden[torch.tensor(features.training_labels) >= 4] = 0
    blind = replace(few, tasks={"toy": replace(features, views_NVE=hidden)})
    assert [one.accuracy for one in refit(blind, FIT)[0]] != seen[1], "new classes are trained"


def test_the_data_are_described_by_where_shots_come_from(features: TaskFeatures) -> None:
    found = describe_data(features)
    assert (found.shot_domains, found.held_out_domains) == (["flat", "round"], ["far"])
    assert (found.fewest, found.most) == (5, 5)
    split_N = features.split_N.clone()
    split_N[0] = SPLITS.index("test")  # a training image less of class 5
    one = replace(
        features,
        split_N=split_N,
        domain_N=features.domain_N * 0,
        domains=("all",),
        views_NVE=features.views_NVE[1:],
        train_label_T=features.train_label_T[1:],
        train_index_T=features.train_index_T[:-1],
    )
    found = describe_data(one)
    assert (found.shot_domains, found.held_out_domains) == (["all"], [])
    assert (found.fewest, found.most) == (4, 5)
