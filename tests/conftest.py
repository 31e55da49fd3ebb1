"""What all tests share: a bare machine, a tiny random CLIP, tiny features, tiny drawings."""

import os
import signal

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["RAY_ADDRESS"] = "local"  # tests do not join the cluster that a user may have started

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.clip.config import BackboneConfig
from pipeline.clip.encoders import TextSide
from pipeline.clip.folder import build_clip, save_clip
from pipeline.clip.text.tower import TextTower
from pipeline.data.config import EmojiConfig, EmojiTask
from pipeline.data.datasets.emoji import build_manifest, read_tasks
from pipeline.data.manifest import Manifest
from pipeline.features.task import TaskFeatures
from tests.helpers.bare import hide_programs
from tests.helpers.toy import (
    CLASS_NAMES,
    CONTEXT_LENGTH,
    clip_config,
    toy_drawings,
    toy_features,
)

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs


def pytest_configure(config: pytest.Config) -> None:
    """Run tests as on a bare machine, unless `-m` chooses those that need more."""
    if "not cluster" in config.option.markexpr:
        folder = Path(tempfile.mkdtemp(prefix="loqua-bare-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        hide_programs(folder)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_tracking_store() -> Iterator[None]:
    """A store that a test names, by MLflow's calls or by the variable, is not the next test's."""
    name = "MLFLOW_TRACKING_URI"
    before = os.environ.get(name)
    yield
    os.environ.pop(name, None)
    if before is not None:
        os.environ[name] = before


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP, as open_clip loads it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("backbone")
    model, _ = build_clip(clip_config(), CONTEXT_LENGTH)
    save_clip(folder, model, clip_config())
    return folder


@pytest.fixture(scope="session")
def backbone(clip_folder: Path) -> Backbone:
    """The tiny CLIP, loaded."""
    return load_backbone(BackboneConfig(name=str(clip_folder), pretrained=None, device="cpu"))


@pytest.fixture(scope="session")
def tower(backbone: Backbone) -> TextTower:
    """The tiny CLIP's text tower."""
    return backbone.text


@pytest.fixture(scope="session")
def text(backbone: Backbone) -> TextSide:
    """The tiny CLIP's text side, for the classes of `features`."""
    return backbone.text_side("a photo of a", CLASS_NAMES)


@pytest.fixture(scope="session")
def features() -> TaskFeatures:
    """Random unit features of eight classes."""
    return toy_features()


@pytest.fixture(scope="session")
def drawings() -> pd.DataFrame:
    """Six concepts in three styles; the sixth lacks a style."""
    return toy_drawings()


@pytest.fixture(scope="session")
def drawings_path(drawings: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawings as a file."""
    path = tmp_path_factory.mktemp("drawings") / "drawings.parquet"
    drawings.to_parquet(path)
    return path


@pytest.fixture(scope="session")
def emoji_config() -> EmojiConfig:
    """How the tiny drawings become a task."""
    return EmojiConfig(
        tasks={
            "things": EmojiTask(
                group="things", conditions=["negative"], template="a negative drawing of a {}."
            )
        },
        max_classes=80,
        shot_styles=["flat", "round"],
        held_out_styles=["far"],
        poses={"train": 2, "val": 1, "test": 1},
        image_size=32,
        seed=3,
    )


@pytest.fixture(scope="session")
def manifest(drawings_path: Path, emoji_config: EmojiConfig) -> Manifest:
    """The tiny task, rendered: 5 classes, 2 styles to learn from and 1 held out."""
    tasks = read_tasks(drawings_path, emoji_config)
    return build_manifest("things", tasks["things"], emoji_config)


@pytest.fixture(scope="session")
def registry_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A registry with the versions of a toy study; use `world`, which also sets the store."""
    from tests.helpers.registry_world import build_world, tracked_at  # MLflow is slow to import

    folder = tmp_path_factory.mktemp("registry")
    with tracked_at(f"sqlite:///{folder / 'mlflow.db'}"):
        return build_world(folder)


@pytest.fixture
def world(registry_world: Any) -> Iterator[Any]:
    """The toy registry, in force for a test."""
    from tests.helpers.registry_world import tracked_at

    with tracked_at(registry_world.uri):
        yield registry_world


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project, with little to do."""
    from tests.helpers.projects import N_TRIALS, clone

    return clone(
        tmp_path_factory.mktemp("clone") / "loqua",
        tasks=["activities", "food-drink"],
        sweep__n_trials=N_TRIALS,
        evaluate__seeds=[1, 2],
    )


@pytest.fixture(scope="session")
def finished(project: Path) -> str:
    """What `dvc repro` printed in it."""
    from tests.helpers.projects import run

    return run(project, "dvc", "repro").stdout
