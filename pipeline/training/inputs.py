"""What the stages after `features` read: features of tasks, both encoders, pictures if needed.

Every stage loads them here, so that inputs which do not belong together are an error, wherever
they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.encoders import TextSide
from pipeline.core import paths
from pipeline.core.errors import report_all
from pipeline.core.hashes import file_hash, value_hash
from pipeline.data.manifest import load_manifest
from pipeline.features.files import load_features
from pipeline.features.loader import with_pictures
from pipeline.features.task import TaskFeatures
from pipeline.training.config import InputsConfig


@dataclass(frozen=True)
class Inputs:
    """What fits share.

    Attributes:
        config: what they were made with.
        backbone: on the CPU.
        text: its text side, with all class names.
        tasks: features by name.
    """

    config: InputsConfig
    backbone: Backbone
    text: TextSide
    tasks: dict[str, TaskFeatures]

    @property
    def data_hash(self) -> str:
        """SHA-256 of all manifests."""
        return value_hash([task.data_hash for task in self.tasks.values()])

    @property
    def content_hash(self) -> str:
        """SHA-256 of all features, with the settings and the backbone that they were made with."""
        return value_hash([task.content_hash for task in self.tasks.values()])

    def captions_KE(self, task: str, template: str | None = None) -> Tensor:
        """Return the embeddings `[K, E]` of a task's captions, on the CPU.

        Args:
            task: its name.
            template: the caption; None: the task's own.
        """
        features = self.tasks[task]
        template = template or features.template
        captions = [template.format(name) for name in features.class_names]
        return self.backbone.encode_captions(captions).cpu()


def load_inputs(tasks: Sequence[str], config: InputsConfig, n_ctx: int, depth: int) -> Inputs:
    """Load what fits and measurements read, and check that it belongs together.

    Args:
        tasks: their names.
        config: what they should have been made with.
        n_ctx: the largest number of context tokens; class names must fit behind it.
        depth: the largest number of prompted layers; from 1 on, the pictures are loaded, too.

    Raises:
        ValueError: if a file is missing or damaged, if features are of another manifest, backbone
            or section `features`, if a class name is too long, or if a tower is too shallow.
    """
    model = load_backbone(config.backbone.on_cpu())
    found = {task: load_features(paths.features_path(task)) for task in tasks}
    check_origin(list(found.values()), config, model.fingerprint)
    names = [name for features in found.values() for name in features.class_names]
    text = model.text_side(config.init, names, with_vision=depth > 0)
    text.check_depth(depth)
    text.check_names(n_ctx)
    if depth:
        for task, features in found.items():
            manifest = load_manifest(paths.manifest_path(task), root=config.root)
            found[task] = with_pictures(features, model, manifest, config.features)
    return Inputs(config, model, text, found)


def check_origin(tasks: Sequence[TaskFeatures], config: InputsConfig, fingerprint: str) -> None:
    """Refuse features that were not made of the manifests, towers and settings at hand.

    Args:
        tasks: the features.
        config: the settings at hand.
        fingerprint: of the towers at hand.

    Raises:
        ValueError: naming every file, what differs, and the stage that makes it again.
    """
    problems = []
    for task in tasks:
        path, manifest = paths.features_path(task.name), paths.manifest_path(task.name)
        if task.data_hash != (expected := file_hash(manifest)):
            problems.append(
                f"{path}: made from a manifest with hash {task.data_hash[:12]}; expected "
                f"{expected[:12]}, that of {manifest}"
            )
        if task.fingerprint != fingerprint:
            problems.append(
                f"{path}: made by a backbone with fingerprint {task.fingerprint[:12]}; expected "
                f"{fingerprint[:12]}, that of {config.backbone.name}"
            )
        problems += [
            f"{path}: made with features.{key} {task.settings.get(key)}; expected {value}"
            for key, value in config.features.content.items()
            if task.settings.get(key) != value
        ]
    report_all("features are out of date; run `dvc repro features`", problems)


def check_study(path: Path, found: str, expected: str, stage: str) -> None:
    """Refuse results of another study than the one at hand.

    Args:
        path: of the results.
        found: the name of their study.
        expected: the name of the study at hand.
        stage: makes the results.

    Raises:
        ValueError: naming both studies and the stage to run.
    """
    if found != expected:
        raise ValueError(f"{path}: of study {found}; expected {expected}; run `dvc repro {stage}`")
