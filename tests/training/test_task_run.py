"""The fit of one configuration: the shots it gets, and what is measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.clip.encoders import TextSide
from pipeline.data.sampling import Draws
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.prompts.context import merge
from pipeline.training.task_run import Point, TaskRun, draw_images, measure_prompts
from tests.helpers.reference import sample_shots
from tests.helpers.toy import train_config

TRAIN = train_config(6, rounds=2)
PROMPT = PromptConfig(init="a photo of a", rank=2, bits=2, n_ctx=4)
SEEDS = [1, 2, 3]
PER_IMAGE = ("features_NE", "row_N", "label_N", "split_N", "domain_N")
POINTS = [Point(PROMPT, 0.1, seed) for seed in SEEDS]


def build(text: TextSide, features: TaskFeatures, **changed: Any) -> TaskRun:
    """Return a run on the base classes."""
    options = {"points": POINTS, "train": TRAIN, "classes": [0, 1, 2, 3], "shots": 2}
    return TaskRun(text, features, **{**options, **changed})


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 1], [4, 5, 6, 7], [7]])
@pytest.mark.parametrize("seed", SEEDS)
def test_shots_are_drawn_from_all_classes_before_the_split(
    features: TaskFeatures, classes: list[int], seed: int
) -> None:
    labels = features.training_labels
    expected = [row for row in sample_shots(labels, 2, seed) if labels[row] in classes]
    chosen = [row for row, label in enumerate(labels) if label in classes]
    assert [chosen[i] for i in draw_images(features, classes, 2, seed)] == expected


def test_every_class_gets_its_shots(text: TextSide, features: TaskFeatures) -> None:
    data = build(text, features).fit.data
    assert data.shots == 2
    for index_N in data.index_SN:
        assert data.label_X[index_N].bincount().tolist() == [2, 2, 2, 2]


def test_stored_prompts_are_measured(text: TextSide, features: TaskFeatures) -> None:
    run = build(text, features)
    for _ in range(TRAIN.rounds):
        run.fit.run_round()
    found = run.measure("test", [4, 5, 6, 7], ["flat", "far"])
    image_NE, label_N = features.select("test", [4, 5, 6, 7], ["flat", "far"])
    names = [text.name_tokens[features.class_names[label]] for label in (4, 5, 6, 7)]
    for accuracy, prompt in zip(found, run.stored(), strict=True):
        context_MD = merge(text.init_MD(4), prompt.values())
        class_KE = text.tower(context_MD[None], text.tower.pack(names, 4))[0]
        predicted_N = (image_NE @ F.normalize(class_KE, dim=-1).T).argmax(dim=-1)
        assert accuracy == pytest.approx(float((predicted_N == label_N).float().mean()))


def test_measuring_changes_nothing(text: TextSide, features: TaskFeatures) -> None:
    quiet, watched = build(text, features), build(text, features)
    for _ in range(TRAIN.rounds):
        watched.measure("val", [0, 1, 2, 3], features.shot_domains)
        assert quiet.fit.run_round() == watched.fit.run_round()
    assert torch.equal(quiet.fit.contexts(), watched.fit.contexts())


@pytest.mark.parametrize("index", range(4))
def test_a_point_does_not_depend_on_its_neighbours(
    text: TextSide, features: TaskFeatures, index: int
) -> None:
    full, low_rank = PROMPT.model_copy(update={"rank": "full"}), PROMPT
    points = [
        Point(full.model_copy(update={"bits": 16}), 0.1, 1),
        Point(low_rank, 0.1, 2),
        Point(low_rank, 0.02, 2),
        Point(full, 0.2, 1),
    ]
    together = build(text, features, points=points)
    alone = build(text, features, points=points[index : index + 1])
    for _ in range(TRAIN.rounds):
        torch.testing.assert_close(
            together.fit.run_round()[index], alone.fit.run_round()[0], rtol=1e-4, atol=1e-5
        )
    domains = features.shot_domains
    assert together.measure("val", range(8), domains)[index] == pytest.approx(
        alone.measure("val", range(8), domains)[0]
    )


def test_points_of_unequal_length_are_refused(text: TextSide, features: TaskFeatures) -> None:
    longer = Point(PROMPT.model_copy(update={"n_ctx": 8}), 0.1, 1)
    with pytest.raises(ValueError, match=r"n_ctx and depth \[\(4, 0\), \(8, 0\)\]; expected one"):
        build(text, features, points=[*POINTS, longer])


def test_an_untrained_prompt_is_zero_shot(
    backbone: Any, text: TextSide, features: TaskFeatures
) -> None:
    prompts = build(text, features).stored()
    captions = [features.template.format(name) for name in features.class_names]
    class_KE = backbone.encode_captions(captions)
    image_NE, label_N = features.select("test", range(8), features.domains)
    expected = float(((image_NE @ class_KE.T).argmax(dim=-1) == label_N).double().mean())
    found = measure_prompts(text, features, prompts, "test", range(8), features.domains)
    assert found == pytest.approx([expected] * len(SEEDS))


def test_all_names_that_do_not_fit_are_named(text: TextSide) -> None:
    long = replace(text, name_tokens={"ok": [5] * 18, "long": [5] * 19, "longer": [5] * 30})
    with pytest.raises(
        ValueError, match=r"n_ctx 4.*24\n.*'long': got 19 .* 18\n.*'longer': got 30"
    ):
        long.check_names(4)
    text.check_names(4)


def test_images_that_no_draw_gives_are_not_needed(text: TextSide, features: TaskFeatures) -> None:
    """The same shots, losses and accuracies; a draw that was not foreseen is an error."""
    drawn_T = torch.tensor(Draws(SEEDS[:2], (2,)).union(features.training_labels))
    kept_N = torch.cat([drawn_T, (features.split_N != 0).nonzero()[:, 0]])
    assert len(drawn_T) < len(features.training_labels)
    index_T = torch.full_like(features.train_index_T, -1)
    index_T[drawn_T] = torch.arange(len(drawn_T))
    rows = {name: getattr(features, name)[kept_N] for name in PER_IMAGE}
    views_NVE = features.views_NVE[drawn_T]
    part = replace(features, **rows, views_NVE=views_NVE, train_index_T=index_T)
    runs = [build(text, found, points=POINTS[:2]) for found in (features, part)]
    for name in ("views_XVE", "label_X", "index_SN"):
        assert torch.equal(*(getattr(run.fit.data, name) for run in runs))
    assert runs[0].fit.run_round() == runs[1].fit.run_round()
    measured = [run.measure("test", [0, 1, 2, 3], features.domains) for run in runs]
    assert measured[0] == measured[1]
    with pytest.raises(ValueError, match=r"task toy: \d of 8 images that seed 3 draws for 2 shots"):
        build(text, part)
    with pytest.raises(ValueError, match="draws for 3 shots are not encoded; .* set sweep.shots"):
        build(text, part, points=POINTS[:2], shots=3)
