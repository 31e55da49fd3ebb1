"""A trial looks at the validation images of base classes, and at nothing else."""

from dataclasses import replace

import pytest
import torch

from pipeline.clip.encoders import TextSide
from pipeline.data.manifest import SPLITS
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.training.metrics import harmonic_mean
from pipeline.training.trial import Trial, check_splits
from tests.helpers.toy import train_config

TRAIN = train_config(6, lr=0.2)
PROMPT = PromptConfig(init="a photo of a", rank=1, bits=1, n_ctx=4)


def build(text: TextSide, *tasks: TaskFeatures) -> Trial:
    """Return a trial with two seeds."""
    return Trial(text, tasks, PROMPT, TRAIN, shots=2, seeds=[1, 2])


def run(trial: Trial) -> Trial:
    """Train it to the end."""
    while not trial.done:
        trial.run_round()
    return trial


def poisoned(features: TaskFeatures, row_N: torch.Tensor) -> TaskFeatures:
    """Return the features with NaN in some rows, and in their training views."""
    features_NE, views_NVE = features.features_NE.clone(), features.views_NVE.clone()
    features_NE[row_N] = float("nan")
    views_NVE[row_N[features.split_N == 0]] = float("nan")
    return replace(features, features_NE=features_NE, views_NVE=views_NVE)


def test_test_images_and_new_classes_are_never_read(text: TextSide, features: TaskFeatures) -> None:
    is_new = features.label_N >= 4
    is_test = features.split_N == SPLITS.index("test")
    pseudo_new_train = (features.label_N >= 2) & (features.split_N == SPLITS.index("train"))
    hidden = poisoned(features, is_new | is_test | pseudo_new_train)
    with_new_unknown = replace(
        text, name_tokens={name: text.name_tokens[name] for name in features.class_names[:4]}
    )
    clean, blind = run(build(text, features)), run(build(with_new_unknown, hidden))
    assert clean.history == blind.history
    assert clean.measure() == blind.measure()
    assert all(torch.tensor(list(found.values())).isfinite().all() for found in blind.history)


def test_what_it_does_read_matters(text: TextSide, features: TaskFeatures) -> None:
    validation = (features.split_N == SPLITS.index("val")) & (features.label_N < 4)
    trained = (features.split_N == SPLITS.index("train")) & (features.label_N < 2)
    assert run(build(text, poisoned(features, validation))).measure() != (
        run(build(text, features)).measure()
    )
    with pytest.raises(ArithmeticError):
        run(build(text, poisoned(features, trained)))


def test_what_is_not_finite_is_told_with_round_and_task(
    text: TextSide, features: TaskFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = build(text, features)
    trial.run_round()
    monkeypatch.setattr(trial.runs[0], "validate", lambda *_: [0.5, float("nan")])
    with pytest.raises(
        ArithmeticError, match="^round 2: task toy: accuracy on base classes is nan"
    ):
        trial.run_round()
    assert len(trial.history) == 1, "it is no result"


def test_class_embeddings_that_are_not_finite_are_no_accuracy(
    text: TextSide, features: TaskFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = build(text, features)
    monkeypatch.setattr(TextSide, "class_embeddings", lambda *_: torch.full((2, 2, 32), torch.nan))
    with pytest.raises(ArithmeticError, match="task toy: a class embedding is not finite"):
        trial.run_round()


def test_classes_are_halved_twice(text: TextSide, features: TaskFeatures) -> None:
    assert build(text, features).classes == [([0, 1], [2, 3])]


def test_scores_are_means_over_tasks(text: TextSide, features: TaskFeatures) -> None:
    other = replace(features, name="other", features_NE=features.features_NE.roll(1, dims=1))
    trial = run(build(text, features, other))
    last, tasks = trial.history[-1], trial.measure()
    assert len(trial.history) == TRAIN.rounds
    assert set(tasks) == {"toy", "other"}
    for key in ("base", "new"):
        assert last[key] == pytest.approx(sum(task[key] for task in tasks.values()) / 2)
    assert last["score"] == harmonic_mean(last["base"], last["new"])
    assert trial.seconds > 0


def test_the_same_trial_gives_the_same_record(text: TextSide, features: TaskFeatures) -> None:
    assert run(build(text, features)).history == run(build(text, features)).history


def test_size_is_of_one_prompt(text: TextSide, features: TaskFeatures) -> None:
    assert build(text, features).size_bytes == 1 + 64 // 8 + 2 * 4


def test_tasks_without_a_split_that_is_needed_are_all_named(features: TaskFeatures) -> None:
    test_only = replace(features, name="sketch", split_N=torch.full_like(features.split_N, 2))
    no_val = replace(features, name="imagenet", split_N=features.split_N.clamp(max=1) * 2)
    check_splits([features, no_val], ("train", "test"))
    with pytest.raises(ValueError, match="cannot take part") as caught:
        check_splits([features, no_val, test_only], ("train", "val"))
    assert "imagenet: no val images" in str(caught.value)
    assert "sketch: no train and no val images" in str(caught.value)
    assert "toy" not in str(caught.value)
