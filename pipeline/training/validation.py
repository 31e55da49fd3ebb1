"""Which images a trial is measured on: validation images, never test images.

Shapes: N encoded images of a task, T of its training split, V validation images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.core.errors import report_all
from pipeline.data.classes import split_base_new
from pipeline.data.manifest import SPLITS
from pipeline.data.sampling import draw_train_rest, draw_train_val
from pipeline.features.task import TaskFeatures
from pipeline.training.config import Validation


def check_validation(
    tasks: Sequence[TaskFeatures], shots: int, seeds: Sequence[int], rule: Validation
) -> None:
    """Refuse tasks where a seed has no validation image of some base class.

    Raises:
        ValueError: naming every such task and its classes.
    """
    problems = []
    for task in tasks:
        base, _ = split_base_new(task.training_labels)
        for seed in seeds:
            present = set(task.label_N[validation_rows(task, shots, seed, rule)].tolist())
            if lacking := [task.class_names[label] for label in base if label not in present]:
                problems.append(f"{task.name}: seed {seed} leaves none of {', '.join(lacking)}")
    report_all(
        f"classes without validation images at sweep.shots {shots}; allowed are tasks with a "
        "validation split, or with more training images of a class than shots",
        problems,
    )


def validation_rows(features: TaskFeatures, shots: int, seed: int, rule: Validation) -> Tensor:
    """Return the validation images of a seed, as positions `[V]` in `features.features_NE`.

    Args:
        features: of the task.
        shots: of the trial.
        seed: of the trial's draw.
        rule: `all` images of the validation split, for every seed the same; `drawn`: the few
            that the public rule draws of them, so that nothing was chosen with more labels than
            the papers had. A task without that split takes those that `draw_train_rest` draws.

    Raises:
        ValueError: if a training image that serves as one is not encoded.
    """
    val_V = (features.split_N == SPLITS.index("val")).nonzero()[:, 0]
    if len(val_V) and rule == "all":
        return val_V
    if len(val_V):
        labels = features.label_N[val_V].tolist()
        _, drawn = draw_train_val(features.training_labels, labels, shots, seed)
        return val_V[sorted(drawn)]
    _, drawn = draw_train_rest(features.training_labels, shots, seed)
    index_V = features.train_index_T[sorted(drawn)]
    if missing := int((index_V < 0).sum()):
        raise ValueError(
            f"task {features.name}: {missing} of {len(index_V)} training images that seed {seed} "
            f"takes for validation at {shots} shots are not encoded; name both in sweep.seeds and "
            "sweep.shots and run `dvc repro features`"
        )
    train_N = (features.split_N == SPLITS.index("train")).nonzero()[:, 0]
    return train_N[torch.sort(index_V).values]
