"""The fit of one configuration: the shots it gets, and what is measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import sample_shots
from torch.nn import functional as F

from pipeline.features import TaskFeatures
from pipeline.prompts import PromptConfig, merge
from pipeline.run import TaskRun, TextSide, draw_images, measure_prompts
from pipeline.train import TrainConfig

TRAIN = TrainConfig(
    lr=0.1, steps=6, warmup_steps=1, batch_size="all", momentum=0.9, weight_decay=0.0, epochs=2
)
PROMPT = PromptConfig(init="a photo of a", rank=2, bits=2, n_ctx=4)
SEEDS = [1, 2, 3]


def build(text: TextSide, features: TaskFeatures, **changed: Any) -> TaskRun:
    """Return a run on the base classes."""
    options = {
        "prompt": PROMPT,
        "train": TRAIN,
        "classes": [0, 1, 2, 3],
        "shots": 2,
        "seeds": SEEDS,
    }
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
    for index_N in data.index_SN:
        assert data.label_X[index_N].bincount().tolist() == [2, 2, 2, 2]


def test_stored_prompts_are_measured(text: TextSide, features: TaskFeatures) -> None:
    run = build(text, features)
    for _ in range(TRAIN.epochs):
        run.fit.run_epoch()
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
    for _ in range(TRAIN.epochs):
        watched.measure("val", [0, 1, 2, 3], features.shot_domains)
        assert quiet.fit.run_epoch() == watched.fit.run_epoch()
    assert torch.equal(quiet.fit.contexts(), watched.fit.contexts())


def test_a_seed_does_not_depend_on_its_neighbours(text: TextSide, features: TaskFeatures) -> None:
    together, alone = build(text, features), build(text, features, seeds=[2])
    for _ in range(TRAIN.epochs):
        torch.testing.assert_close(
            together.fit.run_epoch()[1], alone.fit.run_epoch()[0], rtol=1e-4, atol=1e-5
        )


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
    with pytest.raises(ValueError, match=r"n_ctx 4.*24\n.*'long': 19 .* 18\n.*'longer': 30"):
        long.check_names(4)
    text.check_names(4)
