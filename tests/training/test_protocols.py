"""The four protocols: what is trained on, what is tested on."""

from dataclasses import replace

import pytest

from pipeline.features.task import TaskFeatures
from pipeline.params import load_params
from pipeline.training.config import ProtocolConfig, check_protocol
from pipeline.training.protocols import targets, trained_classes, trained_tasks

TASKS = ("toy", "other", "third")


@pytest.fixture
def tasks(features: TaskFeatures) -> dict[str, TaskFeatures]:
    """Three tasks; the third has four classes."""
    few = replace(features, class_names=features.class_names[:4])
    return {"toy": features, "other": features, "third": few}


def places(config: ProtocolConfig, tasks: dict[str, TaskFeatures]) -> list[tuple[str, str, str]]:
    """Return what prompts of the first source are tested on."""
    source = trained_tasks(config, TASKS)[0]
    return [(t.task, t.side, t.domain) for t in targets(config, source, tasks)]


def test_base_to_new_tests_both_halves_near_and_far(tasks: dict[str, TaskFeatures]) -> None:
    config = ProtocolConfig(train="base", test="halves")
    assert trained_tasks(config, TASKS) == list(TASKS)
    assert trained_classes(config, tasks["toy"]) == [0, 1, 2, 3]
    found = list(targets(config, "toy", tasks))
    assert [(t.side, t.domain, t.classes, t.domains) for t in found] == [
        ("base", "shots", (0, 1, 2, 3), ("flat", "round")),
        ("base", "held-out", (0, 1, 2, 3), ("far",)),
        ("new", "shots", (4, 5, 6, 7), ("flat", "round")),
        ("new", "held-out", (4, 5, 6, 7), ("far",)),
    ]


def test_few_shot_trains_and_tests_all_classes(tasks: dict[str, TaskFeatures]) -> None:
    config = ProtocolConfig(train="all", test="all", shots=[1, 2])
    assert trained_classes(config, tasks["toy"]) == list(range(8))
    assert places(config, tasks) == [("toy", "all", "shots")]


def test_cross_dataset_tests_every_other_task(tasks: dict[str, TaskFeatures]) -> None:
    config = ProtocolConfig(train="all", test="tasks", source="other")
    assert trained_tasks(config, TASKS) == ["other"]
    assert places(config, tasks) == [
        ("other", "all", "shots"),
        ("toy", "all", "shots"),
        ("third", "all", "shots"),
    ]
    some = config.model_copy(update={"targets": ["third"]})
    assert places(some, tasks) == [("other", "all", "shots"), ("third", "all", "shots")]


def test_domain_generalization_tests_other_domains_and_data_sets(
    tasks: dict[str, TaskFeatures],
) -> None:
    config = ProtocolConfig(train="all", test="domains", source="toy")
    assert places(config, tasks) == [("toy", "all", "shots"), ("toy", "all", "far")]
    variants = config.model_copy(update={"targets": ["third"]})
    assert places(variants, tasks) == [
        ("toy", "all", "shots"),
        ("toy", "all", "far"),
        ("third", "all", "shots"),
    ]
    each = ProtocolConfig(train="all", test="domains", targets=["third"])
    assert trained_tasks(each, TASKS) == ["toy", "other"], "what is only tested is not trained on"


def test_tasks_that_are_not_there_are_named_together() -> None:
    config = ProtocolConfig(train="all", test="tasks", source="no", targets=["nor", "toy"])
    with pytest.raises(ValueError, match="protocols.x") as caught:
        check_protocol("x", config, TASKS)
    assert "source: got 'no'" in str(caught.value)
    assert "targets: got 'nor'" in str(caught.value)


def test_the_shipped_presets_are_the_fields_four() -> None:
    params = load_params()
    assert set(params.protocols) == {
        "base_to_new",
        "few_shot",
        "cross_dataset",
        "domain_generalization",
    }
    assert params.protocols["few_shot"].shots == [1, 2, 4, 8, 16]
    for name, config in params.protocols.items():
        check_protocol(name, config, params.tasks)
