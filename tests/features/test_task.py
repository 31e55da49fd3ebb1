"""Which images a fit or a measurement sees."""

from dataclasses import replace

import pytest
import torch

from pipeline.data.manifest import SPLITS
from pipeline.features.config import MOST_WORKERS
from pipeline.features.task import TaskFeatures, renumber
from tests.helpers.toy import features_config


@pytest.mark.parametrize("classes", [[0, 1, 2], [7, 3], [5]])
@pytest.mark.parametrize("split", SPLITS)
def test_select_keeps_split_classes_and_domains(
    features: TaskFeatures, split: str, classes: list[int]
) -> None:
    for domains in (["flat"], ["flat", "round"], ["far"]):
        image_NE, label_N = features.select(split, classes, domains)
        expected = [
            (row, classes.index(label))
            for row, (label, own, domain) in enumerate(
                zip(features.label_N.tolist(), features.split_N, features.domain_N, strict=True)
            )
            if label in classes and SPLITS[own] == split and features.domains[domain] in domains
        ]
        assert label_N.tolist() == [label for _, label in expected]
        assert torch.equal(image_NE, features.features_NE[[row for row, _ in expected]])


def test_training_rows_are_rows_of_the_training_views(features: TaskFeatures) -> None:
    row_N, label_N = features.training_rows([6, 2])
    image_NE, same_N = features.select("train", [6, 2], features.shot_domains)
    assert torch.equal(features.views_NVE[row_N, 0], image_NE)
    assert torch.equal(label_N, same_N)
    assert features.training_labels == features.label_N[features.split_N == 0].tolist()


def test_shot_domains_are_those_of_training_images(features: TaskFeatures) -> None:
    assert features.shot_domains == ["flat", "round"]
    only_far = replace(features, domain_N=torch.full_like(features.domain_N, 2))
    assert only_far.shot_domains == ["far"]


def test_nothing_selected_is_empty(features: TaskFeatures) -> None:
    image_NE, label_N = features.select("val", [0, 1], ["far"])
    assert image_NE.shape == (0, 32)
    assert label_N.shape == (0,)
    keep, label_N = renumber(torch.tensor([3, 4]), [])
    assert not keep.any()
    assert not len(label_N)


def test_settings_of_workers_and_bad_images() -> None:
    assert features_config(workers=3).n_workers == 3
    assert 1 <= features_config(workers="auto").n_workers <= MOST_WORKERS
    assert features_config().on_bad_image == "strict"
    for wrong in ({"workers": -1}, {"workers": "all"}, {"on_bad_image": "ignore"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            features_config(**wrong)
